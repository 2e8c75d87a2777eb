-- Batches and their items, which wait here until they are admitted.

CREATE TABLE batches (
    batch_id      text        PRIMARY KEY,
    workflow_id   text        NOT NULL,
    version       integer,
    digest        text        NOT NULL,
    status        text        NOT NULL, -- RUNNING, COMPLETED, CANCELLED
    priority      text        NOT NULL,
    labels        json        NOT NULL,
    requested_by  text,
    total         integer     NOT NULL, -- items taken in
    skipped       integer     NOT NULL, -- items whose key had been worked on
    done          integer     NOT NULL DEFAULT 0,
    failed        integer     NOT NULL DEFAULT 0, -- failed, cancelled or timed out
    withdrawn     integer     NOT NULL DEFAULT 0, -- cancelled before they were admitted
    state_before  json        NOT NULL, -- {done, failed} of all batches of this workflow version
    expected_work json        NOT NULL, -- {runs, skipped}
    state_after   json,
    delta         json,                 -- state_after - state_before
    created_at    timestamptz NOT NULL,
    ended_at      timestamptz
) WITH (fillfactor = 50); -- counted up in place

CREATE INDEX batches_workflow ON batches (workflow_id, created_at);
CREATE INDEX batches_digest ON batches (digest);
CREATE INDEX batches_created ON batches (created_at, batch_id);
CREATE INDEX batches_open ON batches (created_at) WHERE ended_at IS NULL;

CREATE TABLE batch_items (
    batch_id text    NOT NULL,
    position integer NOT NULL,
    key      text,
    run_id   text    NOT NULL,
    input    text    NOT NULL, -- stored text: JSON, or artifact://sha256-...
    state    text    NOT NULL DEFAULT 'pending', -- pending, admitted, done, failed, withdrawn
    PRIMARY KEY (batch_id, position)
);

CREATE INDEX batch_items_pending ON batch_items (batch_id, position) WHERE state = 'pending';
CREATE INDEX batch_items_run ON batch_items (run_id);
CREATE INDEX batch_items_key ON batch_items (key) WHERE key IS NOT NULL;
