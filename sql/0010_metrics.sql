-- depends: 0006_lexical
-- What workers have counted since ever, so that one scrape of the query process tells of all of them, and no counter goes
-- back when a worker ends. Each worker adds what is new every few seconds: a dozen rows, seldom written.
SET ROLE askbox_owner;

-- part: '' is a counter; of a histogram, 'sum', or the upper bound of a bucket that holds its own observations only.
CREATE TABLE metric_total (
  name text NOT NULL,
  labels jsonb NOT NULL,
  part text NOT NULL DEFAULT '',
  value double precision NOT NULL CONSTRAINT total_never_falls CHECK (value >= 0),
  PRIMARY KEY (name, labels, part)
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON metric_total TO askbox_worker;
GRANT SELECT ON metric_total TO askbox_reader;

RESET ROLE;
