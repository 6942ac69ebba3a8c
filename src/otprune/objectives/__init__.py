"""What makes a set good: pure functions of tensors."""
