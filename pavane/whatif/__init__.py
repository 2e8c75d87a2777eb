"""What-if: recorded runs routed again under a changed workflow, with their recorded outputs and no model call."""
