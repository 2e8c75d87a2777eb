-- Snapshots of runs, which runs were forked from which, and of which runs this database has lost events.

CREATE TABLE run_snapshots (
    run_id text        NOT NULL,
    seq    integer     NOT NULL, -- the state after this event
    at     timestamptz NOT NULL, -- of that event
    size   integer     NOT NULL, -- bytes of the JSON
    state  bytea       NOT NULL, -- JSON (schemas/snapshot.py), zstd
    PRIMARY KEY (run_id, seq)
);
ALTER TABLE run_snapshots ALTER COLUMN state SET STORAGE EXTERNAL; -- compressed already

ALTER TABLE run_projection
    ADD COLUMN snapshot_seq integer NOT NULL DEFAULT 0, -- of the newest snapshot; 0 where there is none
    ADD COLUMN broken_at    integer,                    -- the events after this one are missing; null: none are
    ADD COLUMN forked_from  text,                       -- the run that this one was forked from,
    ADD COLUMN forked_at    integer;                    -- after this event of it

CREATE INDEX run_projection_forked ON run_projection (forked_from, created_at) WHERE forked_from IS NOT NULL;

-- Few: runs that are to be put right.
CREATE INDEX run_projection_wrong ON run_projection (run_id) WHERE diverged OR broken_at IS NOT NULL;

-- A fork begins with a revision too.
DROP INDEX execution_events_revisions;
CREATE INDEX execution_events_revisions ON execution_events (run_id, seq)
    WHERE type IN ('run_started', 'run_forked', 'run_patched');
