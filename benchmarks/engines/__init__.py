"""What engines are measured with: prompts of the tiny reasoner, one policy of each kind, closed-loop load."""
