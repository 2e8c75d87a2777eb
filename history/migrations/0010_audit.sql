-- Audit: what each operation on a batch found, did and left; the author's own query of a state; the items that were skipped.

ALTER TABLE batches
    ADD COLUMN by         text,        -- whose API key it was, or the user that the command named
    ADD COLUMN started_at timestamptz, -- the first item was admitted
    ADD COLUMN paused_at  timestamptz, -- since when it is paused
    ADD COLUMN paused_ms  bigint NOT NULL DEFAULT 0, -- of earlier pauses
    ADD COLUMN audit       json,        -- {connection, query}: its row is `audit` in state_before and state_after
    ADD COLUMN audit_due   timestamptz, -- when the query is to be asked again, of a batch that has ended
    ADD COLUMN audit_tries integer NOT NULL DEFAULT 0,
    ADD COLUMN audit_error text;        -- why the last try gave no row

CREATE INDEX batches_audit_due ON batches (audit_due) WHERE audit_due IS NOT NULL;

ALTER TABLE batch_actions
    ADD COLUMN number       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ADD COLUMN state_before json,        -- {status, pending, running, done, failed, withdrawn}
    ADD COLUMN state_after  json,
    ADD COLUMN touched      integer,     -- runs and items that it changed
    ADD COLUMN counts       json,        -- {outcome: how many}
    ADD COLUMN done_at      timestamptz; -- null: under way, or cut off

-- Items that a batch was handed and did not take.
CREATE TABLE batch_skips (
    batch_id         text    NOT NULL,
    position         integer NOT NULL, -- in the list that was handed in, from 0
    key              text    NOT NULL,
    reason           text    NOT NULL, -- done, running (both in an earlier batch, or still), twice (the key's second item)
    earlier_run_id   text    NOT NULL, -- the run that did it, or does
    earlier_batch_id text    NOT NULL,
    PRIMARY KEY (batch_id, position)
);
