//! `org.brahman.Index`: datasets to searchable vectors.

mod generations;
mod manage;
mod search;
mod trials;

pub use generations::*;
pub use manage::*;
pub use search::*;
pub use trials::*;

use super::Interface;

/// The interface.
pub const INTERFACE: Interface = Interface {
    name: "org.brahman.Index",
    idempotent: &[
        "Create", "Search", "SearchBulk", "Get", "List", "Stats", "Delete", "Generations", "Doctor", "EvalList", "Trials", "Best", "CompactTrials", "AgentStatus", "AgentEnqueue",
        "Unpin",
    ],
    idl: "# Chunks a dataset's rows, embeds them through the mesh, and searches the vectors.
interface org.brahman.Index

type Skipped (doc_id: string, reason: string)

# One chunk. `start` and `end` are its byte range in the row's text, `line` its first line, from 1.
type Hit (doc_id: string, chunk: int, start: int, end: int, line: int, text: string, score: float)

type Elapsed (embed: int, filter: int, search: int, fetch: int, total: int)

type Measured (recall: float, recall_low: float, p95_us: float, orphans: int, queries: int)

type GenerationInfo (
  number: int,
  current: bool,
  reason: string,
  created_ms: int,
  chunks: int,
  docs: int,
  appended: int,
  dead: int,
  bytes: int,
  engine: string,
  m: int,
  ef_construction: int,
  ef_search: int,
  measured: ?Measured,
  forced: bool,
  pinned: ?bool,
  mock: ?bool
)

type Config (engine: ?string, m: ?int, ef_construction: ?int, ef_search: ?int, seed: ?int)

type EvalInfo (id: string, created_ms: int, fingerprint: string, k: int, tune: int, holdout: int)

type Metrics (
  build_time_secs: float,
  p50_us: float,
  p95_us: float,
  p99_us: float,
  recall_at_k: float,
  recall_low: float,
  recall_high: float,
  memory_bytes: int,
  vectors: int,
  eval_queries: int,
  orphans: int,
  brute_force_latency_us: float
)

type TrialRecord (
  id: string,
  at_ms: int,
  config: Config,
  metrics: Metrics,
  fingerprint: string,
  engine_version: string,
  eval: string,
  by: string,
  note: ?string
)

# Live searches compared with exact ones since a promotion; `verdict` is open, kept, or broken: then it is rolled back.
type Shadow (verdict: string, checked: int, recall: float, target: float)

# A filter column whose type changed: the newest counts. `nulls_made` values could not be converted.
type Converted (column: string, from: string, to: string, nulls_made: int)

# What of an index is in memory; `words` is closed, disk or memory. `hits` and `misses` are of words and columns, the others of files
# that were compared with their checksums.
type Caches (
  generations: int,
  graph_bytes: int,
  mapped_bytes: int,
  appended_bytes: int,
  columns_bytes: int,
  words: string,
  hits: int,
  misses: int,
  verified_files: int,
  verified_hits: int,
  verified_misses: int
)

# `sweep` says why old files stay: something could not be read, and may need them. `mock`: the vectors were made up by a mock.
type Description (
  name: string,
  dataset: string,
  id_column: string,
  text_column: ?string,
  vector_column: ?string,
  filter_columns: []string,
  chunk_size: int,
  overlap: int,
  bucket: string,
  engine: string,
  model: ?string,
  fingerprint: ?string,
  dim: ?int,
  generation: int,
  dataset_generation: int,
  chunks: int,
  docs: int,
  appended: int,
  dead: int,
  bytes: int,
  memory_bytes: int,
  m: int,
  ef_construction: int,
  ef_search: int,
  stale: bool,
  degraded: ?string,
  busy: ?string,
  shadow: ?Shadow,
  pinned: ?bool,
  dataset_run: ?string,
  sweep: ?string,
  caches: ?Caches,
  mock: ?bool
)

# `chunk_size` and `overlap` are in characters. The same parameters again change nothing; others are refused.
method Create(
  name: string,
  dataset: string,
  id_column: string,
  text_column: ?string,
  text_columns: ?[]string,
  template: ?string,
  vector_column: ?string,
  filter_columns: ?[]string,
  chunk_size: ?int,
  overlap: ?int,
  engine: ?string,
  model: ?string,
  m: ?int,
  ef_construction: ?int,
  ef_search: ?int,
  bucket: ?string
) -> (created: bool)

# Brings the index up to its dataset. Only rows whose content is new are embedded. With `more` it reports progress. `borrowed`: keys of the
# dataset's objects that were read from their copies in `rescue`, for their bucket is away.
method Refresh(name: string) -> (
  phase: string,
  done: int,
  of: int,
  pre_existing_docs: ?int,
  dataset_docs: ?int,
  new_docs: ?int,
  changed_docs: ?int,
  removed_docs: ?int,
  empty_docs: ?int,
  skipped_docs: ?int,
  skipped: ?[]Skipped,
  new_chunks: ?int,
  reused: ?int,
  resumed: ?int,
  total: ?int,
  cached: ?int,
  truncated: ?int,
  duration_s: ?float,
  bytes_written: ?int,
  stale_cleared: ?bool,
  generation: ?int,
  model: ?string,
  resume_lost: ?int,
  converted: ?[]Converted,
  unpinned: ?bool,
  sweep: ?string,
  mock: ?bool,
  borrowed: ?[]string
)

# Embeds everything by another model into a new generation, which answers when it is whole. Its replies are those of Refresh. From
# a real model to a mock only with `allow_mock`.
method Migrate(name: string, model: ?string, allow_mock: ?bool) -> (
  phase: string,
  done: int,
  of: int,
  pre_existing_docs: ?int,
  dataset_docs: ?int,
  new_docs: ?int,
  changed_docs: ?int,
  removed_docs: ?int,
  empty_docs: ?int,
  skipped_docs: ?int,
  skipped: ?[]Skipped,
  new_chunks: ?int,
  reused: ?int,
  resumed: ?int,
  total: ?int,
  cached: ?int,
  truncated: ?int,
  duration_s: ?float,
  bytes_written: ?int,
  stale_cleared: ?bool,
  generation: ?int,
  model: ?string,
  resume_lost: ?int,
  converted: ?[]Converted,
  unpinned: ?bool,
  sweep: ?string,
  mock: ?bool,
  borrowed: ?[]string
)

# By text (embedded by the index's own model, whatever the context), or by one or many vectors.
# `vectors` is a list of lists of floats, `results` a list of lists of Hit, one a query.
method Search(
  index: string,
  text: ?string,
  vector: ?[]float,
  vectors: ?[]object,
  k: ?int,
  ef: ?int,
  filter: ?object,
  mode: ?string,
  exact: ?bool,
  threads: ?int
) -> (
  results: []object,
  generation: int,
  engine: string,
  mode: string,
  model: string,
  provider: ?string,
  stale: bool,
  truncated: ?bool,
  degraded: ?string,
  rescue: bool,
  elapsed_us: Elapsed,
  mock: ?bool
)

# Called with `upgrade`: Arrow frames of a column `vector` in; query, doc_id, chunk, start, text, score and generation out.
method SearchBulk(index: string, k: ?int, ef: ?int, filter: ?object, exact: ?bool) -> (
  model: string,
  fingerprint: string,
  dim: int,
  generation: int,
  mock: ?bool
)

# The chunks of one document.
method Get(index: string, doc_id: string) -> (chunks: []Hit, generation: int)

method List() -> (indexes: []Description)

method Stats(name: string) -> (index: Description)

method Delete(name: string) -> (deleted: bool)

# `unreadable` names generations, and whatever else, that cannot be read.
method Generations(name: string) -> (generations: []GenerationInfo, pinned: ?bool, unreadable: ?[]string)

# Builds and measures a challenger beside the champion, on the same queries; it answers only if it is better. With `more`: progress.
method Promote(name: string, generation: ?int, trial: ?string, config: ?Config, target_recall: ?float, force: ?bool) -> (
  phase: string,
  done: int,
  of: int,
  promoted: ?bool,
  verdict: ?string,
  generation: ?int,
  challenger: ?Measured,
  champion: ?Measured
)

# Goes back to the generation before, or to one that is named, and stays there: nothing that acts by itself goes on from it until
# `Unpin`, or the next `Refresh` that somebody asks for.
method Rollback(name: string, generation: ?int) -> (generation: int, previous: int, pinned: ?bool)

# Lets the index follow its dataset again after a rollback.
method Unpin(name: string) -> (unpinned: bool, generation: int)

# Takes an index to another bucket, which must be a folder: everything is copied and compared before the copy answers. With
# `more`: progress in bytes.
method Move(name: string, bucket: string) -> (
  phase: string,
  done: int,
  of: int,
  moved: ?bool,
  bucket: ?string,
  previous: ?string,
  bytes: ?int
)

# Folds what was appended, and leaves out what is dead, now rather than in the background. With `more`: progress.
method Compact(name: string) -> (phase: string, done: int, of: int, compacted: ?bool, generation: ?int)

# Compares every file with its checksum, and asks rows to find themselves. With `repair`: what is damaged is made again from the
# segments, and what cannot be is put aside.
method Doctor(name: string, repair: ?bool) -> (
  healthy: bool,
  problems: []string,
  repaired: bool,
  orphans: int,
  files: int,
  generation: int,
  notes: ?[]string,
  put_aside: ?[]string
)

# Makes queries near the index's own rows, which are not rows themselves, and their true neighbours.
method EvalAutogen(name: string, queries: ?int, k: ?int, seed: ?int) -> (eval: EvalInfo)

method EvalList(name: string) -> (evals: []EvalInfo, damaged: ?[]string)

# Builds a graph beside the live one, measures it, and keeps the record. With `more`: progress.
method Trial(name: string, config: Config, target_recall: ?float, note: ?string) -> (phase: string, done: int, of: int, trial: ?TrialRecord)

# `shortfall` says why there may be fewer than were made, until somebody has looked at what was set aside and moved that away.
method Trials(name: string) -> (
  trials: []TrialRecord,
  fingerprint: ?string,
  torn: int,
  quarantined: int,
  missing: ?int,
  shortfall: ?string
)

method Best(name: string, by: ?string) -> (trial: ?TrialRecord)

method CompactTrials(name: string, keep: ?int) -> (kept: int, dropped: int)

# Tries a grid. With `more`: a reply a trial.
method Autotune(name: string, m: ?[]int, ef_construction: ?[]int, target_recall: ?float) -> (phase: string, done: int, of: int, trial: ?TrialRecord, best: ?TrialRecord)

# What the background agent does; it is off unless the module's configuration says otherwise.
method AgentStatus() -> (
  enabled: bool,
  queue: []string,
  running: ?string,
  last: ?string,
  trials_last_hour: int,
  max_trials_per_hour: int,
  next_in_s: int,
  reason: ?string,
  pinned: ?[]string,
  refreshes: ?bool
)

method AgentEnqueue(name: string) -> (queued: bool)

error NoSuchIndex (message: string, retryable: bool, name: string)
error IndexExists (message: string, retryable: bool, name: string)
# The vectors at hand come from another model than the index's.
error ModelMismatch (message: string, retryable: bool, wanted: string, got: string)
error NotReady (message: string, retryable: bool, name: string)
error Damaged (message: string, retryable: bool, name: string)
error Busy (message: string, retryable: bool, name: string)
# The index is to live in a bucket that nobody has added.
error NoSuchBucket (message: string, retryable: bool, name: string)
error NoSuchGeneration (message: string, retryable: bool, name: string)
error NoSuchTrial (message: string, retryable: bool, name: string)
# There is nothing to measure with: `EvalAutogen` makes it.
error NoEval (message: string, retryable: bool, name: string)
error AgentOff (message: string, retryable: bool, name: string)
# Nothing can be written where the index lies: it is searched, and not changed.
error ReadOnly (message: string, retryable: bool, path: string)
",
};
