"""A workdir over time: training that resumes, checkpoints, trained models."""
