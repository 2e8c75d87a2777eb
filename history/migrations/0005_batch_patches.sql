-- Batch patches: what was asked of a batch's runs, what its items begin with since, what came of each run.

CREATE TABLE batch_patches (
    batch_id    text        NOT NULL,
    number      integer     NOT NULL, -- from 1
    state       text        NOT NULL, -- canary, applied, reverted
    done        boolean     NOT NULL DEFAULT false, -- all runs were asked for this state
    by          text        NOT NULL,
    description text,
    operations  json        NOT NULL,
    options     json        NOT NULL, -- {live_tokens?, running?, filter?, canary?} as they were asked for
    through     integer,              -- the last position whose item begins with it; null: none does
    before      text        NOT NULL REFERENCES irs, -- the IR that items began with until then
    after       text        NOT NULL REFERENCES irs, -- the IR that they begin with
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp(), -- of the state
    PRIMARY KEY (batch_id, number)
);

-- A row for each run that was asked, by the position of its item.
CREATE TABLE batch_patch_runs (
    batch_id text    NOT NULL,
    number   integer NOT NULL,
    position integer NOT NULL,
    outcome  text,    -- patched, refused, ended, reverted, kept (it is not reverted); null: a filter chose it, and it is not asked yet
    revision integer, -- that it has since
    reason   json,    -- {reason, message, tokens?, errors?} of one that is refused or kept
    PRIMARY KEY (batch_id, number, position)
);
