"""What is good, what is proved, and what a kept token stands for: pure functions of tensors."""
