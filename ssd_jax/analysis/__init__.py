"""What can be said before anything is trained: errors, information, costs."""
