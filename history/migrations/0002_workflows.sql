-- Registered workflows.

CREATE TABLE workflows (
    workflow_id text        PRIMARY KEY,
    latest      integer     NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workflow_versions (
    workflow_id     text        NOT NULL REFERENCES workflows,
    version         integer     NOT NULL,
    digest          text        NOT NULL REFERENCES irs,
    document        json        NOT NULL,
    document_sha256 bytea       NOT NULL, -- of its canonical JSON: the same document is the same version
    created_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workflow_id, version),
    UNIQUE (workflow_id, document_sha256)
);
