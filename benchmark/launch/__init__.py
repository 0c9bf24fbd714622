"""Launch cells on this machine: in this process, or in local workers."""
