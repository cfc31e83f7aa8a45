"""The central trainer: schemes, losses, jobs, the report."""
