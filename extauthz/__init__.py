"""The authorizer, and the vocabulary of authorization that the control plane shares: identity, policy, decision, audit."""
