"""The schema, told forward. A released migration is never edited; the next one is appended.

Owners (nobody else writes these tables):
  store       meta
  candidates  imports, prompts, responses, source_labels, source_scores, gold
  signals     encoders, embeddings, scores, datamap_builds, datamap, judgements, judge_servers,
              judge_calls, judge_attempts, judge_batches, judge_batch_calls
  rounds      rounds, picks, extra_votes
  studio      projects, tasks
  labels      annotators, votes (and the view current_votes), consensus_builds, consensus,
              annotator_skills

Kept and append-only, because money or attention paid for them: prompts, responses,
source_labels, source_scores, gold, judge_calls, judge_attempts, rounds, picks, extra_votes, votes.
Derived and rebuilt at will: embeddings, scores, judgements, datamap_builds, datamap,
consensus_builds, consensus, annotator_skills.
"""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING
from uuid import uuid4

from sqlite_utils import Migrations

from annotator.errors import StoreError
from annotator.store.database import APPLICATION_ID, newer_schema, now, writing

if TYPE_CHECKING:
    from sqlite_utils import Database

MIGRATIONS = Migrations("annotator")


def migrate(db: Database, path: Path, *, stop_before: str | None = None) -> None:
    """Brings the schema up to date in one transaction; before that, an old database is copied.

    The copy is FILE.backup-NAME, NAME being the last migration it has. Raises NewerSchema when
    the database knows migrations that this release does not.
    """
    if not _pending(db, path):
        return
    if MIGRATIONS.applied(db):
        _back_up(db, path)
    with writing(db):
        # Another process may have migrated while this one waited for the lock: apply() looks
        # again, inside the transaction.
        _pending(db, path)
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        MIGRATIONS.apply(db, stop_before=stop_before)


def _pending(db: Database, path: Path) -> bool:
    known = {migration.name for migration in MIGRATIONS._migrations}
    unknown = [m.name for m in MIGRATIONS.applied(db) if m.name not in known]
    if unknown:
        raise newer_schema(path, unknown)
    return bool(MIGRATIONS.pending(db))


def _back_up(db: Database, path: Path) -> Path:
    last = MIGRATIONS.applied(db)[-1].name
    backup = path.with_name(f"{path.name}.backup-{last}")
    scratch = path.with_name(f"{backup.name}.{uuid4().hex[:8]}.part")
    try:
        db.execute("VACUUM INTO ?", [str(scratch)])
        scratch.replace(backup)
    except Exception as error:
        raise StoreError(
            f"the copy before the migration failed: {error}",
            expected=f"room for a copy of {path}",
            todo="make room and try again; the database is unchanged",
        ) from error
    finally:
        scratch.unlink(missing_ok=True)
    return backup


def _run(db: Database, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            db.execute(statement)


@MIGRATIONS()
def m001_first_tables(db: Database) -> None:
    """Candidates, vectors, rounds, the outbox and votes."""
    _run(db, _M001)
    # Ties this database to the projects it makes on a server.
    db.execute("INSERT INTO meta VALUES ('database_id', ?)", [uuid4().hex])
    db.execute("INSERT INTO meta VALUES ('created_at', ?)", [now()])


_M001 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);

CREATE TABLE imports (
  id INTEGER PRIMARY KEY,
  file TEXT NOT NULL,
  dataset TEXT NOT NULL,
  format TEXT NOT NULL,
  started_at TEXT NOT NULL,
  finished_at TEXT
);

CREATE TABLE prompts (
  id INTEGER PRIMARY KEY,
  prompt_key TEXT NOT NULL UNIQUE,   -- hash of the messages
  messages TEXT NOT NULL,            -- JSON list of {role, content}
  text_hash TEXT NOT NULL,           -- of the messages as one text: the key of its vector
  dataset TEXT NOT NULL,
  external_id TEXT,                  -- the id that the file gave it
  import_id INTEGER NOT NULL REFERENCES imports(id)
);
CREATE UNIQUE INDEX prompts_external ON prompts(dataset, external_id)
  WHERE external_id IS NOT NULL;
CREATE INDEX prompts_text ON prompts(text_hash);

CREATE TABLE responses (
  id INTEGER PRIMARY KEY,
  response_key TEXT NOT NULL UNIQUE, -- hash of prompt_key and text
  prompt_id INTEGER NOT NULL REFERENCES prompts(id),
  text TEXT NOT NULL,
  text_hash TEXT NOT NULL,           -- of the text alone: the key of its vector
  model TEXT,
  external_id TEXT,
  import_id INTEGER NOT NULL REFERENCES imports(id)
);
CREATE INDEX responses_prompt ON responses(prompt_id, response_key);
CREATE UNIQUE INDEX responses_external ON responses(prompt_id, external_id)
  WHERE external_id IS NOT NULL;
CREATE INDEX responses_text ON responses(text_hash);

CREATE TABLE source_labels (
  id INTEGER PRIMARY KEY,
  label_key TEXT NOT NULL UNIQUE,    -- hash of everything below and its occurrence number
  a_id INTEGER NOT NULL REFERENCES responses(id),
  b_id INTEGER NOT NULL REFERENCES responses(id),
  label TEXT NOT NULL CHECK (label IN ('a', 'b', 'tie', 'both_bad')),
  strength REAL,
  annotator TEXT,
  kind TEXT NOT NULL,                -- human, objective, or llm:NAME
  import_id INTEGER NOT NULL REFERENCES imports(id)
);
CREATE INDEX source_labels_pair ON source_labels(a_id, b_id);

CREATE TABLE source_scores (
  response_id INTEGER NOT NULL REFERENCES responses(id),
  name TEXT NOT NULL,                -- who scored, as the file says it
  value REAL NOT NULL,
  import_id INTEGER NOT NULL REFERENCES imports(id),
  PRIMARY KEY (response_id, name)
) WITHOUT ROWID;

CREATE TABLE encoders (
  id INTEGER PRIMARY KEY,
  name TEXT NOT NULL,
  fingerprint TEXT NOT NULL,         -- hash of the weights
  chunking TEXT NOT NULL,            -- how long texts are cut and averaged
  dimension INTEGER NOT NULL,
  UNIQUE (name, fingerprint, chunking)
);

CREATE TABLE embeddings (
  encoder_id INTEGER NOT NULL REFERENCES encoders(id),
  text_hash TEXT NOT NULL,
  row INTEGER NOT NULL,              -- in the encoder's shards
  n_chunks INTEGER NOT NULL,
  PRIMARY KEY (encoder_id, text_hash)
) WITHOUT ROWID;
CREATE UNIQUE INDEX embeddings_row ON embeddings(encoder_id, row);

CREATE TABLE projects (
  id INTEGER PRIMARY KEY,
  server TEXT NOT NULL,              -- URL of the Label Studio
  mark TEXT NOT NULL,                -- stands in the project's description on the server
  studio_id INTEGER NOT NULL,        -- the project's id on the server
  title TEXT NOT NULL,
  screen TEXT NOT NULL,              -- hash of the labelling screen
  overlap INTEGER NOT NULL,
  cursor TEXT,                       -- updated_at up to which votes were taken in
  n_foreign INTEGER NOT NULL DEFAULT 0,  -- tasks there that are not ours, or doubled
  created_at TEXT NOT NULL,
  UNIQUE (mark)                      -- it holds this database's id; a server's URL may change
);

CREATE TABLE rounds (
  id INTEGER PRIMARY KEY,
  started_at TEXT NOT NULL,
  strategy TEXT NOT NULL,
  seed INTEGER NOT NULL,
  n_acquired INTEGER NOT NULL,
  n_control INTEGER NOT NULL,
  overlap INTEGER NOT NULL,
  encoder_id INTEGER REFERENCES encoders(id),
  pool TEXT NOT NULL,                -- JSON: counts and fingerprint of what was chosen from
  version TEXT NOT NULL              -- of annotator
);

CREATE TABLE picks (
  id INTEGER PRIMARY KEY,
  round_id INTEGER NOT NULL REFERENCES rounds(id),
  place INTEGER NOT NULL,            -- order in which the annotators see the batch
  pair_key TEXT NOT NULL,
  a_id INTEGER NOT NULL REFERENCES responses(id),
  b_id INTEGER NOT NULL REFERENCES responses(id),
  arm TEXT NOT NULL CHECK (arm IN ('acquired', 'control', 'gold', 'repeat')),
  draw INTEGER NOT NULL,             -- order in which its arm picked it
  side_order TEXT NOT NULL CHECK (side_order IN ('ab', 'ba')),  -- left, then right
  strategy TEXT NOT NULL,
  score REAL,
  propensity REAL CHECK (propensity > 0 AND propensity <= 1),   -- NULL: not drawn
  CHECK (a_id <> b_id),
  UNIQUE (round_id, place)
);
CREATE UNIQUE INDEX picks_once ON picks(pair_key) WHERE arm IN ('acquired', 'control');
CREATE INDEX picks_pair_key ON picks(pair_key);
CREATE INDEX picks_pair ON picks(a_id, b_id);

CREATE TABLE tasks (
  id INTEGER PRIMARY KEY,
  pick_id INTEGER NOT NULL UNIQUE REFERENCES picks(id),
  project_id INTEGER REFERENCES projects(id),   -- NULL until the round is first pushed
  task_key TEXT NOT NULL UNIQUE,     -- stands in the task's data on the server
  state TEXT NOT NULL DEFAULT 'pending'
    CHECK (state IN ('pending', 'sent', 'stored', 'swept', 'conflict', 'gone')),
  attempts INTEGER NOT NULL DEFAULT 0,
  sent_at TEXT,
  studio_id INTEGER,                 -- the task's id on the server
  problem TEXT
);
CREATE INDEX tasks_state ON tasks(state);
CREATE INDEX tasks_studio ON tasks(project_id, studio_id);

CREATE TABLE annotators (
  id INTEGER PRIMARY KEY,
  server TEXT NOT NULL,
  studio_id INTEGER NOT NULL,
  name TEXT NOT NULL,
  UNIQUE (server, studio_id)
);

CREATE TABLE votes (
  id INTEGER PRIMARY KEY,            -- order of arrival; the clock decides nothing
  project_id INTEGER NOT NULL REFERENCES projects(id),
  annotation_id INTEGER NOT NULL,    -- on the server
  studio_task_id INTEGER NOT NULL,   -- on the server
  pick_id INTEGER REFERENCES picks(id),
  annotator_id INTEGER REFERENCES annotators(id),
  status TEXT NOT NULL CHECK (status IN ('vote', 'skip', 'deleted', 'rejected')),
  grade TEXT CHECK (grade IN
    ('a_much_better', 'a_better', 'tie', 'both_bad', 'b_better', 'b_much_better')),
  confidence TEXT CHECK (confidence IN ('low', 'high')),
  rationale TEXT,
  seconds REAL,                      -- that the annotator had the task open
  prefilled INTEGER NOT NULL DEFAULT 0,  -- 1: a machine's answer was offered and submitted
  reason TEXT,                       -- why it was rejected
  updated_at TEXT NOT NULL,          -- by the server's clock
  seen_at TEXT NOT NULL,
  raw TEXT NOT NULL,                 -- JSON as it came
  CHECK ((status = 'vote') = (grade IS NOT NULL)),
  CHECK (status IN ('deleted', 'rejected') OR
    (pick_id IS NOT NULL AND annotator_id IS NOT NULL))
);
CREATE INDEX votes_annotation ON votes(project_id, annotation_id);
CREATE INDEX votes_pick ON votes(pick_id);
CREATE INDEX votes_task ON votes(project_id, studio_task_id);

-- What counts: the newest state of each annotation, and of several annotations by one person
-- on one pick the newest.
CREATE VIEW current_votes AS
WITH newest AS (
  SELECT *, row_number() OVER (
    PARTITION BY project_id, annotation_id ORDER BY id DESC) AS age
  FROM votes
), alive AS (
  SELECT *, row_number() OVER (
    PARTITION BY pick_id, annotator_id ORDER BY updated_at DESC, id DESC) AS turn
  FROM newest WHERE age = 1 AND status IN ('vote', 'skip')
)
SELECT id, project_id, annotation_id, studio_task_id, pick_id, annotator_id, status, grade,
  confidence, rationale, seconds, prefilled, updated_at, seen_at, raw
FROM alive WHERE turn = 1;
"""


@MIGRATIONS()
def m002_data_map(db: Database) -> None:
    """What machines think of responses, and where each prompt lies on the map of that."""
    _run(db, _M002)


_M002 = """
CREATE TABLE scores (
  method TEXT NOT NULL,              -- who scored
  response_id INTEGER NOT NULL REFERENCES responses(id),
  score REAL NOT NULL,               -- high = good
  judge_variance REAL,               -- the scorer's doubt about this one score, never the spread
                                     -- between responses; NULL: it gives none
  encoder_id INTEGER REFERENCES encoders(id),  -- whose vectors it was computed from
  PRIMARY KEY (method, response_id)
) WITHOUT ROWID;

CREATE TABLE datamap_builds (
  id INTEGER PRIMARY KEY,            -- the highest is the newest map
  method TEXT NOT NULL UNIQUE,
  encoder_id INTEGER REFERENCES encoders(id),
  seed INTEGER NOT NULL,             -- orders prompts of equal variance or mean
  variance_cut REAL,                 -- lowest variance of the region high-variance
  mean_cut REAL,                     -- lowest mean of the region high-mean-low-variance
  n_responses INTEGER NOT NULL,      -- in the database when the map was made
  n_scored INTEGER NOT NULL,         -- of them
  built_at TEXT NOT NULL
);

CREATE TABLE datamap (
  build_id INTEGER NOT NULL REFERENCES datamap_builds(id) ON DELETE CASCADE,
  prompt_id INTEGER NOT NULL REFERENCES prompts(id),
  mean REAL,                         -- NULL, as variance and region: fewer than two scores
  variance REAL,                     -- between the responses, ddof 0
  n_scored INTEGER NOT NULL,
  region TEXT CHECK (region IN ('high-mean-low-variance', 'high-variance', 'low-mean')),
  PRIMARY KEY (build_id, prompt_id)
) WITHOUT ROWID;
"""


@MIGRATIONS()
def m003_judge(db: Database) -> None:
    """What language models were asked, what they answered, and what it cost."""
    _run(db, _M003)


_M003 = """
CREATE TABLE judge_servers (
  id INTEGER PRIMARY KEY,
  host TEXT NOT NULL,                -- host:port/path of the base URL
  model TEXT NOT NULL,               -- as it is asked for
  findings TEXT NOT NULL,            -- JSON: what the probe found the server to do
  model_returned TEXT,               -- the name that the server answered with
  client_version TEXT NOT NULL,      -- of the openai package
  probed_at TEXT NOT NULL,
  UNIQUE (host, model)
);

CREATE TABLE judge_calls (
  id INTEGER PRIMARY KEY,
  call_key TEXT NOT NULL UNIQUE,     -- hash of everything that determines the answer
  host TEXT NOT NULL,
  model TEXT NOT NULL,
  state TEXT NOT NULL CHECK
    (state IN ('pending', 'sent', 'ok', 'refused', 'parse_error', 'api_error', 'budget')),
  attempts INTEGER NOT NULL DEFAULT 0,
  due_at TEXT,                       -- pending: not to be sent before
  reply TEXT,                        -- the newest answer, as it came, readable or not
  error TEXT,                        -- why the newest attempt failed
  updated_at TEXT NOT NULL
);
CREATE INDEX judge_calls_open ON judge_calls(state) WHERE state IN ('pending', 'sent');

CREATE TABLE judge_attempts (
  id INTEGER PRIMARY KEY,
  call_id INTEGER NOT NULL REFERENCES judge_calls(id),
  sent_at TEXT NOT NULL,             -- committed before the request goes out
  status TEXT NOT NULL,              -- open, ok, not sent, unknown (seen by nobody), what failed
  reserved_microusd INTEGER,         -- the most that it can cost; NULL: no price known
  cost_microusd INTEGER,             -- NULL: not known, the reservation stands
  prompt_tokens INTEGER,             -- NULL, as the four below: the server told of none
  cached_tokens INTEGER,             -- part of the prompt
  cache_write_tokens INTEGER,        -- part of the prompt
  completion_tokens INTEGER,
  reasoning_tokens INTEGER,          -- part of the completion
  seconds REAL
);
CREATE INDEX judge_attempts_call ON judge_attempts(call_id);
CREATE INDEX judge_attempts_open ON judge_attempts(call_id) WHERE status = 'open';

CREATE TABLE judge_batches (
  id INTEGER PRIMARY KEY,
  content_sha TEXT NOT NULL UNIQUE,  -- of the file; stands in the batch's metadata on the server
  host TEXT NOT NULL,
  purpose TEXT NOT NULL DEFAULT '',  -- what its answers are read as; only that purpose takes it in
  price TEXT,                        -- JSON: what its reservations were made at; NULL: not known
  state TEXT NOT NULL
    CHECK (state IN ('prepared', 'uploaded', 'created', 'ended', 'ingested')),
  file_id TEXT,                      -- on the server
  batch_id TEXT,                     -- on the server
  status TEXT,                       -- the server's word for how far it is
  problem TEXT,
  made_at TEXT NOT NULL,
  updated_at TEXT NOT NULL
);

CREATE TABLE judge_batch_calls (
  batch_id INTEGER NOT NULL REFERENCES judge_batches(id),
  call_id INTEGER NOT NULL REFERENCES judge_calls(id),
  PRIMARY KEY (batch_id, call_id)
) WITHOUT ROWID;
CREATE INDEX judge_batch_calls_call ON judge_batch_calls(call_id);

CREATE TABLE judgements (
  method TEXT NOT NULL,              -- who compared
  a_id INTEGER NOT NULL REFERENCES responses(id),
  b_id INTEGER NOT NULL REFERENCES responses(id),
  p_a REAL NOT NULL CHECK (p_a >= 0 AND p_a <= 1),   -- that a is the better one
  judge_variance REAL,               -- between the two orders
  flipped INTEGER NOT NULL CHECK (flipped IN (0, 1)),  -- 1: the winner changed with the order
  PRIMARY KEY (method, a_id, b_id),
  CHECK (a_id < b_id)
) WITHOUT ROWID;
"""


@MIGRATIONS()
def m004_several_people(db: Database) -> None:
    """Further votes on a pair, pairs whose answer is known, and what is believed of all of them."""
    _run(db, _M004)
    # Names annotators where their ids shall not be told. It stands in no project's description.
    db.execute("INSERT INTO meta VALUES ('annotator_key', ?)", [token_hex(32)])


_M004 = """
-- Prompts that came with gold answers only are asked as gold and never chosen.
ALTER TABLE imports ADD COLUMN purpose TEXT NOT NULL DEFAULT 'candidates'
  CHECK (purpose IN ('candidates', 'gold'));

CREATE TABLE gold (
  a_id INTEGER NOT NULL REFERENCES responses(id),   -- a and b by response key, as in picks
  b_id INTEGER NOT NULL REFERENCES responses(id),
  label TEXT NOT NULL CHECK (label IN ('a', 'b', 'tie')),
  import_id INTEGER NOT NULL REFERENCES imports(id),
  PRIMARY KEY (a_id, b_id),
  CHECK (a_id <> b_id)
) WITHOUT ROWID;

-- `overlap` of a round is the least number of votes a pair, `overlap_most` the most.
ALTER TABLE rounds ADD COLUMN overlap_most INTEGER;
ALTER TABLE rounds ADD COLUMN overlap_policy TEXT;
ALTER TABLE rounds ADD COLUMN n_gold INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN n_repeat INTEGER NOT NULL DEFAULT 0;

-- A round that asks for more votes on an earlier round's pick.
CREATE TABLE extra_votes (
  id INTEGER PRIMARY KEY,
  round_id INTEGER NOT NULL REFERENCES rounds(id),
  pick_id INTEGER NOT NULL REFERENCES picks(id),
  n_votes INTEGER NOT NULL,          -- that it had
  overlap INTEGER NOT NULL,          -- that it shall have
  gain REAL,                         -- of each further vote, as expected; NULL: nobody asked
  reason TEXT NOT NULL,              -- which policy or command asked for it
  UNIQUE (pick_id, overlap)
);
CREATE INDEX extra_votes_round ON extra_votes(round_id);

-- Votes wanted, NULL: as many as its project asks for; and what the server was last told.
ALTER TABLE tasks ADD COLUMN overlap INTEGER;
ALTER TABLE tasks ADD COLUMN overlap_told INTEGER;
CREATE INDEX tasks_overlap ON tasks(id) WHERE overlap IS NOT overlap_told;

CREATE TABLE consensus_builds (
  id INTEGER PRIMARY KEY,            -- the highest is the newest
  last_vote_id INTEGER NOT NULL,     -- the newest row of votes that it knows
  n_votes INTEGER NOT NULL,
  n_pairs INTEGER NOT NULL,
  encoder_id INTEGER REFERENCES encoders(id),  -- NULL: from votes alone
  settings TEXT NOT NULL,            -- JSON: what it was computed by and with
  built_at TEXT NOT NULL
);

CREATE TABLE consensus (
  build_id INTEGER NOT NULL REFERENCES consensus_builds(id) ON DELETE CASCADE,
  a_id INTEGER NOT NULL REFERENCES responses(id),
  b_id INTEGER NOT NULL REFERENCES responses(id),
  n_votes INTEGER NOT NULL,
  preferred REAL NOT NULL,           -- P(most who take a side prefer a)
  tie REAL NOT NULL,                 -- P(one more careful vote is a tie)
  gain REAL NOT NULL,                -- what a further vote is expected to take off its error
  verdict TEXT NOT NULL CHECK (verdict IN ('a', 'b', 'tie', 'disputed')),
  PRIMARY KEY (build_id, a_id, b_id)
) WITHOUT ROWID;

CREATE TABLE annotator_skills (
  build_id INTEGER NOT NULL REFERENCES consensus_builds(id) ON DELETE CASCADE,
  annotator_id INTEGER NOT NULL REFERENCES annotators(id),
  n_votes INTEGER NOT NULL,
  skill REAL NOT NULL,               -- share of votes that follow the pair, with its interval
  skill_low REAL NOT NULL,
  skill_high REAL NOT NULL,
  left_bias REAL NOT NULL,           -- how much oftener left than right for no reason of the pair's
  left_low REAL NOT NULL,
  left_high REAL NOT NULL,
  PRIMARY KEY (build_id, annotator_id)
) WITHOUT ROWID;
"""


@MIGRATIONS()
def m005_budget(db: Database) -> None:
    """What the project costs beside votes and judges, machine labels, figures that took long."""
    _run(db, _M005)


_M005 = """
-- Money that neither a vote nor a judge's call explains, such as a guideline workshop.
CREATE TABLE spend (
  id INTEGER PRIMARY KEY,
  amount REAL NOT NULL,              -- in the project's currency; a correction is negative
  note TEXT NOT NULL,
  spent_at TEXT NOT NULL
);

-- A promise about pairs that no person needs to see. Never deleted: exports refer to it.
CREATE TABLE certificates (
  id INTEGER PRIMARY KEY,
  source TEXT NOT NULL,              -- posterior, or the method of a judge's scores
  agree REAL NOT NULL,               -- share of people who agree, promised at least
  confidence REAL NOT NULL,          -- probability with which the promise holds
  threshold REAL NOT NULL,           -- confidence of the source from which on it holds
  n_calibration INTEGER NOT NULL,    -- control pairs looked at
  n_above INTEGER NOT NULL,          -- of them at or above the threshold
  n_agreed INTEGER NOT NULL,         -- of these, where people agreed
  n_pairs INTEGER NOT NULL,          -- pairs that it covers
  calibration TEXT NOT NULL,         -- JSON: these control pairs, what the source says of each
                                     -- and the agreement that each has to show
  depends TEXT NOT NULL,             -- JSON: model, rubric, encoder and whatever else it stands on
  last_vote_id INTEGER NOT NULL,     -- the newest row of votes that it knows
  made_at TEXT NOT NULL,
  void_at TEXT,
  void_because TEXT
);

-- A look at control votes, whether a promise can be made. All of them share the chance of being
-- wrong, so they are kept, whatever came of them.
CREATE TABLE routing_looks (
  id INTEGER PRIMARY KEY,
  promise INTEGER NOT NULL,          -- number of the promise: what was asked of which source
  source TEXT NOT NULL,
  agree REAL NOT NULL,
  confidence REAL NOT NULL,
  depends TEXT NOT NULL,             -- JSON, as of a certificate
  n_calibration INTEGER NOT NULL,    -- control pairs looked at
  level REAL NOT NULL,               -- chance of being wrong that this look takes
  certificate_id INTEGER REFERENCES certificates(id),   -- NULL: it certified nothing
  looked_at TEXT NOT NULL,
  UNIQUE (promise, n_calibration)
);

-- What a certified source says of a pair, as it said it when the certificate was made.
CREATE TABLE routed (
  certificate_id INTEGER NOT NULL REFERENCES certificates(id),
  a_id INTEGER NOT NULL REFERENCES responses(id),
  b_id INTEGER NOT NULL REFERENCES responses(id),
  label TEXT NOT NULL CHECK (label IN ('a', 'b')),
  probability REAL NOT NULL,         -- of the label, as the source says
  PRIMARY KEY (certificate_id, a_id, b_id)
) WITHOUT ROWID;
CREATE INDEX routed_pair ON routed(a_id, b_id);

-- Documents that take long to make, kept until what they are made of changes; made anew at will.
CREATE TABLE snapshots (
  kind TEXT PRIMARY KEY,
  made_of TEXT NOT NULL,             -- JSON: newest vote, settings and version
  document TEXT NOT NULL,            -- JSON
  built_at TEXT NOT NULL
) WITHOUT ROWID;

-- The same rows as before, several times as fast: the newest state of each annotation is found by a
-- grouping that an index orders, and whole rows are read only of those that count.
DROP VIEW current_votes;
CREATE VIEW current_votes AS
WITH newest AS (
  SELECT max(id) AS id, pick_id, annotator_id, status, updated_at
  FROM votes GROUP BY project_id, annotation_id
), alive AS (
  SELECT id, row_number() OVER (
    PARTITION BY pick_id, annotator_id ORDER BY updated_at DESC, id DESC) AS turn
  FROM newest WHERE status IN ('vote', 'skip')
)
SELECT v.id, v.project_id, v.annotation_id, v.studio_task_id, v.pick_id, v.annotator_id, v.status,
  v.grade, v.confidence, v.rationale, v.seconds, v.prefilled, v.updated_at, v.seen_at, v.raw
FROM alive JOIN votes v ON v.id = alive.id WHERE alive.turn = 1;
"""
