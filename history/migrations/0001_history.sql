-- What the recorder writes: events, what they change, and how far it has come.

CREATE TABLE execution_events (
    run_id   text        NOT NULL,
    seq      integer     NOT NULL,
    type     text        NOT NULL,
    at       timestamptz NOT NULL,
    node_id  text        NOT NULL,
    token_id text        NOT NULL,
    scope    text        NOT NULL,
    data     json        NOT NULL -- not jsonb, which refuses U+0000 in what models and users write
) PARTITION BY RANGE (at);

-- Not unique: exactly once comes from the stream position that is written in the same transaction.
CREATE INDEX execution_events_run ON execution_events (run_id, seq);

-- Takes what has no partition (yet): an event is never refused for its time.
CREATE TABLE execution_events_default PARTITION OF execution_events DEFAULT;

-- Events whose (run, seq) is known with another content, and all that follow in that run: Redis came back older than
-- this database. Kept apart, never mixed.
CREATE TABLE diverged_events (LIKE execution_events INCLUDING ALL);

-- Creates the partitions of the month of `moment` and of the `ahead` next ones, where they are missing.
CREATE FUNCTION create_event_partitions(moment timestamptz, ahead integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first_month timestamp := date_trunc('month', moment AT TIME ZONE 'UTC');
    month timestamp;
    name text;
BEGIN
    FOR i IN 0..ahead LOOP
        month := first_month + make_interval(months => i);
        name := 'execution_events_' || to_char(month, 'YYYY_MM');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        BEGIN
            EXECUTE format('CREATE TABLE %I PARTITION OF execution_events FOR VALUES FROM (%L) TO (%L)', name,
                month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC');
        EXCEPTION WHEN check_violation THEN
            RAISE NOTICE 'events of % are in the default partition already and stay there', name;
        END;
    END LOOP;
END $$;

CREATE TABLE run_projection (
    run_id      text        PRIMARY KEY,
    workflow_id text        NOT NULL,
    version     integer,
    status      text        NOT NULL,
    revision    integer     NOT NULL,
    digest      text        NOT NULL,
    batch_id    text,
    key         text,
    labels      jsonb       NOT NULL,
    priority    text        NOT NULL,
    seq         integer     NOT NULL, -- of the last event recorded
    input       text        NOT NULL, -- stored text: JSON, or artifact://sha256-...
    outputs     json,                 -- {node: output} when the run has ended
    stored      json,                 -- {node: artifact://sha256-...}, the large ones
    ends        text[],               -- nodes whose last execution emitted nothing: theirs is the run's output
    error       json,
    usage       json,
    created_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    diverged    boolean     NOT NULL DEFAULT false -- its further events are in diverged_events
) WITH (fillfactor = 80); -- room to raise `seq` in place

CREATE INDEX run_projection_created ON run_projection (created_at, run_id);
CREATE INDEX run_projection_status ON run_projection (status, created_at, run_id);
CREATE INDEX run_projection_workflow ON run_projection (workflow_id, created_at, run_id);
CREATE INDEX run_projection_batch ON run_projection (batch_id, created_at, run_id) WHERE batch_id IS NOT NULL;
CREATE INDEX run_projection_labels ON run_projection USING gin (labels jsonb_path_ops) WHERE labels <> '{}';

CREATE TABLE artifacts (
    name       text        PRIMARY KEY, -- sha256-<hex> of the packed bytes before compression
    packed     bytea       NOT NULL,    -- msgpack, zstd
    created_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE artifacts ALTER COLUMN packed SET STORAGE EXTERNAL; -- compressed already

CREATE TABLE irs (
    digest text PRIMARY KEY,
    ir     text NOT NULL
);

CREATE TABLE recorder_positions (
    shard    text PRIMARY KEY, -- the prefix of its keys
    position text NOT NULL,    -- id of the last entry of `events` that is recorded
    at       timestamptz NOT NULL DEFAULT now()
);
