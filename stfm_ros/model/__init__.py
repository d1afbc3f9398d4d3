"""The network (torch only). Teacher and student are one class; only ``in_channels`` differs."""
