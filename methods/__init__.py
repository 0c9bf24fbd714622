"""The methods whose published results this benchmark reproduces, one file each."""
