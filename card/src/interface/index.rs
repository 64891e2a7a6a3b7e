//! `org.brahman.Index`: datasets to searchable vectors.

mod generations;
mod manage;
mod search;
mod trials;

pub use generations::*;
pub use manage::*;
pub use search::*;
pub use trials::*;

interface! {
    /// Chunks a dataset's rows, embeds them through the mesh, and searches the vectors.
    ///
    /// Of every answer: `mock` is whether the vectors were made up by a mock; absent if they were
    /// not.
    "org.brahman.Index"
    methods {
        /// The same parameters again change nothing; others are refused.
        Create(CreateIn) -> CreateOut: idempotent;
        /// Brings the index up to its dataset. Only rows whose content is new are embedded. With
        /// `more`: progress, phases `read`, `embed` and `write`.
        Refresh(NameIn) -> RefreshOut: whole_dataset;
        /// Embeds everything by another model, or cuts it anew, into a new generation, which
        /// answers when it is whole. Its replies are those of Refresh. From a real model to a mock
        /// only with `allow_mock`.
        Migrate(MigrateIn) -> RefreshOut: whole_dataset;
        /// By text (embedded by the index's own model, whatever the context), or by one or many
        /// vectors: exactly one of the three. With `rerank`, hits come in the order of a reranker
        /// (`org.brahman.Rerank`); where none answers, its error is the answer.
        Search(SearchIn) -> SearchOut: idempotent, long, reads;
        /// Called with `upgrade`: Arrow frames of a column `vector` in; query, doc_id, chunk,
        /// start, text, score and generation out.
        SearchBulk(SearchBulkIn) -> SearchBulkOut: idempotent, reads;
        /// The chunks of one document.
        Get(GetIn) -> GetOut: idempotent, reads;
        List() -> ListOut: idempotent, reads;
        Stats(NameIn) -> StatsOut: idempotent, reads;
        Delete(NameIn) -> DeleteOut: idempotent, whole_dataset;
        Generations(NameIn) -> GenerationsOut: idempotent, reads;
        /// Builds and measures a challenger beside the champion, on the same queries; it answers
        /// only if it is better and no document is lost. With `more`: progress, phases `build` and
        /// `measure`. Of a generation that is there, or of the configuration of a trial, of
        /// `config`, or of the best trial.
        Promote(PromoteIn) -> PromoteOut: whole_dataset;
        /// Goes back to the generation before, or to one that is named, and stays there: nothing
        /// that acts by itself goes on from it until `Unpin`, or the next `Refresh` that somebody
        /// asks for.
        Rollback(RollbackIn) -> RollbackOut: whole_dataset;
        /// Lets the index follow its dataset again after a rollback.
        Unpin(NameIn) -> UnpinOut: idempotent;
        /// Takes an index to another bucket, which must be a folder: everything is copied and
        /// compared before the copy answers. With `more`: progress in bytes, phase `copy`.
        Move(MoveIn) -> MoveOut: whole_dataset;
        /// Folds what was appended, and leaves out what is dead, now rather than in the background.
        /// With `more`: progress, phase `build`.
        Compact(NameIn) -> CompactOut: whole_dataset;
        /// Compares every file with its checksum, and asks rows to find themselves.
        Doctor(DoctorIn) -> DoctorOut: idempotent, whole_dataset;
        /// Makes a set of queries near the index's own rows, which are not rows themselves, or of
        /// queries that are given, with their true neighbours.
        EvalAutogen(EvalAutogenIn) -> EvalOut: whole_dataset;
        EvalList(NameIn) -> EvalListOut: idempotent, reads;
        /// Builds a graph beside the live one, measures it, and keeps the record. With `more`:
        /// progress, phases `build` and `measure`.
        Trial(TrialIn) -> TrialOut: whole_dataset;
        Trials(NameIn) -> TrialsOut: idempotent, reads;
        /// Of the trials on the data as it is now, by one set of queries.
        Best(BestIn) -> BestOut: idempotent, reads;
        CompactTrials(CompactTrialsIn) -> CompactTrialsOut: idempotent;
        /// Tries a grid, or of a large one what promises most. With `more`: a reply a trial, phase
        /// `trial`, and a last one.
        Autotune(AutotuneIn) -> AutotuneOut: whole_dataset;
        /// For a backup: puts the generation that answers of every index into a folder on this
        /// machine, with what belongs to it, by links where the disk has them. Nothing is locked:
        /// what is being written is not in it.
        Snapshot(SnapshotIn) -> SnapshotOut: long;
        /// What the background agent does; it is off unless the module's configuration says
        /// otherwise.
        AgentStatus() -> AgentStatusOut: idempotent, reads;
        AgentEnqueue(NameIn) -> AgentEnqueueOut: idempotent;
    }
    errors {
        NoSuchIndex { name: String }
        IndexExists { name: String }
        /// The vectors at hand come from another model than the index's.
        ModelMismatch { wanted: String, got: String }
        NotReady { name: String }
        Damaged { name: String }
        Busy { name: String }
        /// The index is to live in a bucket that nobody has added.
        NoSuchBucket { name: String }
        NoSuchGeneration { name: String }
        NoSuchTrial { name: String }
        /// There is nothing to measure with: `EvalAutogen` makes it.
        NoEval { name: String }
        /// The set of queries has known answers, and the data has changed since: it must be given
        /// again.
        StaleEval { name: String, set: String }
        AgentOff { name: String }
        /// The dataset makes more chunks than a refresh may take memory for; nothing was embedded.
        TooLarge { name: String, needed_mib: u64, limit_mib: u64 }
        /// Nothing can be written where the index lies: it is searched, and not changed.
        ReadOnly { path: String }
    }
}
