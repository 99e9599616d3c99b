"""Training: one loop, and one small step function a job."""
