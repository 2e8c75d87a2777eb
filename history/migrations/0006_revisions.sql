-- The events that make a revision, of a run that has a hundred thousand others.
CREATE INDEX execution_events_revisions ON execution_events (run_id, seq) WHERE type IN ('run_started', 'run_patched');
