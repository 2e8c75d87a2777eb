-- Questions of a time read the events of that time alone: some 50 kB a month, and nothing that a COPY would feel.
CREATE INDEX execution_events_at ON execution_events USING brin (at) WITH (pages_per_range = 32, autosummarize = on);
