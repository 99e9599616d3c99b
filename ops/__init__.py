"""Native sources of the fused ops."""
