"""HTTP calls to elsewhere, guarded: which hosts, which addresses, with which credential, and how much of an answer."""
