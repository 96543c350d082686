"""Shipped configs: a file each, with a function get_config(); --config NAME names one."""
