"""Tables: what they hold, and how they are printed."""
