"""Schedules: TIR in, scheduled TIR out, and what a kernel costs."""
