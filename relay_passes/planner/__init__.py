"""Which device, or which share of both, for every operator; pure Python, costs in, plan out."""
