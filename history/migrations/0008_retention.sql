-- Retention: what was dropped, when and where it went; artifacts that lie elsewhere, and those that may be named no more.

-- A row for each partition, or part of another table, whose events were dropped. Runs are dropped whole, so
-- the first row whose span a run's life overlaps is the one that took its events.
CREATE TABLE dropped_events (
    number     bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    source     text        NOT NULL, -- the partition or table that they lay in
    since      timestamptz NOT NULL, -- the span of their times: since <= at < until
    until      timestamptz NOT NULL,
    events     bigint      NOT NULL,
    runs       bigint      NOT NULL,
    file       text,                 -- the name of their export; null: there is none
    sha256     text,                 -- of that file
    dropped_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE retentions (
    at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    before timestamptz NOT NULL, -- what ended before it was to go
    by     text        NOT NULL, -- recorder, or who asked
    report json        NOT NULL
);

CREATE INDEX retentions_at ON retentions (at);

-- Artifacts that a dropped event named: the next sweep deletes those that nothing else names.
CREATE TABLE loose_artifacts (
    name text PRIMARY KEY
);

ALTER TABLE artifacts
    ALTER COLUMN packed DROP NOT NULL,
    ADD COLUMN location text,    -- s3://bucket/key, if it lies there; then `packed` is null
    ADD COLUMN size     integer, -- bytes of what lies there
    ADD COLUMN named_at timestamptz NOT NULL DEFAULT now(), -- when it was last written, to the hour
    ADD CONSTRAINT artifacts_somewhere CHECK ((packed IS NULL) <> (location IS NULL));
