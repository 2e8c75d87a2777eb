"""Questions that people ask of the recorded past, each one statement or two over events and projections."""
