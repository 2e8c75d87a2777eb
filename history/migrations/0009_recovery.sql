-- Recovery asks which runs have not ended, of a database that keeps all that ever did.
CREATE INDEX run_projection_unfinished ON run_projection (run_id) WHERE ended_at IS NULL;
