"""The training step: loss, state, programs. Knows no disk."""
