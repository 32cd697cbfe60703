-- Jobs that somebody has still to do, oldest first.
CREATE INDEX job_open ON job (created_at) WHERE state IN ('new', 'running');
