"""What a workspace holds beside its policy and its log, and who serves it."""
