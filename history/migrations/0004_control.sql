-- Control: who paused, resumed, retried or cancelled a batch; dead letters that were dropped; which run called which.

CREATE TABLE batch_actions (
    batch_id text        NOT NULL,
    action   text        NOT NULL, -- pause, resume, retry, cancel
    by       text        NOT NULL,
    reason   text,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX batch_actions_batch ON batch_actions (batch_id, at);

CREATE TABLE dropped_letters (
    number    bigint      GENERATED ALWAYS AS IDENTITY, -- the order in which they were dropped
    shard     text        NOT NULL, -- the prefix of its keys
    letter_id text        NOT NULL,
    run_id    text,
    reason    text        NOT NULL, -- why it was dropped; the letter has a reason of its own
    by        text        NOT NULL,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    letter    json        NOT NULL,
    PRIMARY KEY (shard, letter_id)
);

CREATE INDEX dropped_letters_number ON dropped_letters (shard, number);

ALTER TABLE run_projection
    ADD COLUMN parent       text, -- the run that called this one
    ADD COLUMN parent_token text;

CREATE INDEX run_projection_parent ON run_projection (parent, created_at) WHERE parent IS NOT NULL;
