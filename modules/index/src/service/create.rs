//! `Create` and `Delete`: an index from its name to its last file.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use brahman_card::Fault;
use brahman_card::interface::WireError as _;
use brahman_card::interface::catalog::{self, GetOut, MarkStaleIn};
use brahman_card::interface::index::{CreateIn, CreateOut, DeleteOut, NameIn, error};
use brahman_card::interface::profiles::error::Forbidden;
use brahman_card::names::IndexName;
use brahman_sidecar::{Call, CallOptions, ClientError, Reply, blocking, chain};
use brahman_storage::atomic;

use super::datasets::Version;
use super::parameters::{check, check_filters};
use super::shelf::{Index, lock};
use super::{CATALOG_WAIT, ENGINE_DEFAULT, IndexService, PARAMETERS, bad_name};
use crate::home::Home;
use crate::refresh::{check_columns, io_fault, no_column, schema_of, text_columns};
use crate::sealed;

impl IndexService {
    pub(super) async fn create(&self, call: &Call) -> Result<Reply, Fault> {
        let mut wanted: CreateIn = call.parameters()?;
        if self.engine != ENGINE_DEFAULT {
            wanted.engine.get_or_insert_with(|| self.engine.to_owned());
        }
        // What was there before its name was reserved can be asked for again.
        let is_there = lock(&self.indexes).contains_key(&wanted.name);
        let stub = match is_there {
            true => self.stub(&wanted.name)?,
            false => {
                self.folder.join(IndexName::new(&wanted.name).map_err(|error| bad_name(&error))?)
            }
        };
        check(&wanted)?;
        let known =
            lock(&self.indexes).get(&wanted.name).is_some_and(|there| there.parameters == wanted);
        if !known {
            check_filters(&wanted)?;
        }
        let options = CallOptions::default();
        let dataset = catalog::NameIn { name: wanted.dataset.clone(), mock: Some(self.mock) };
        let GetOut { dataset, .. } =
            self.client.call_method::<catalog::method::Get>(&dataset, &options).await?.value;
        self.datasets.hear(&dataset.name, &Version::of(&dataset));
        let filters = wanted.filter_columns.clone().unwrap_or_default();
        let texts = text_columns(&wanted).into_iter().map(|column| ("text_column", column));
        let vectors = wanted.vector_column.clone().map(|column| ("vector_column", column));
        let filters = filters.into_iter().map(|column| ("filter_columns", column));
        let named = texts.chain(vectors).chain(filters);
        for (parameter, column) in
            std::iter::once(("id_column", wanted.id_column.clone())).chain(named)
        {
            if !dataset.columns.iter().any(|c| c.name == column) {
                let there: Vec<&str> = dataset.columns.iter().map(|c| c.name.as_str()).collect();
                return Err(no_column(parameter, &dataset.name, &column, &there));
            }
        }
        // What a refresh could not use is said now, while it can still be chosen otherwise.
        if let Some(object) = dataset.objects.first().filter(|_| !known) {
            let path = object.local();
            match blocking(move || schema_of(&path))
                .await
                .map_err(|e| Fault::internal(chain(&e)))?
            {
                Ok(schema) => check_columns(&schema, &dataset.name, &wanted)?,
                Err(error) => tracing::warn!(
                    dataset = dataset.name,
                    "the types of its columns are not known yet: {}",
                    chain(&error)
                ),
            }
        }
        let bucket = wanted.bucket.clone().filter(|bucket| bucket != "primary");
        let place = match &bucket {
            Some(bucket) => Some((bucket, self.place(bucket, &wanted.name).await?)),
            None => None,
        };
        {
            let mut indexes = lock(&self.indexes);
            if let Some(there) = indexes.get(&wanted.name) {
                there.usable()?;
                if there.parameters == wanted {
                    return Reply::of(&CreateOut { created: false });
                }
                let message = format!(
                    "index `{}` exists already with other parameters; delete it first",
                    wanted.name
                );
                return Err(Fault::of(&error::IndexExists { name: wanted.name }, false, message));
            }
            let folder = stub;
            free(&folder).map_err(|e| io_fault("creating the index", &e))?;
            let text = sealed::to_vec(&wanted).map_err(|e| io_fault("creating the index", &e))?;
            let made = fs::create_dir_all(&folder)
                .and_then(|()| {
                    place.map_or(Ok(()), |(bucket, path)| {
                        Home::make(&folder, bucket, &path).map(drop)
                    })
                })
                .and_then(|()| atomic::write(&folder.join(PARAMETERS), &text))
                .and_then(|()| atomic::sync_dir(&self.folder));
            made.map_err(|e| io_fault("creating the index", &e))?;
            indexes.insert(wanted.name.clone(), Arc::new(Index::open(&folder, wanted.clone())));
        }
        let mark = MarkStaleIn {
            name: wanted.dataset,
            index: wanted.name,
            mock: Some(self.mock),
            ..MarkStaleIn::default()
        };
        match self.client.call_method::<catalog::method::MarkStale>(&mark, &options).await {
            // Hidden since it was looked at by a profile: the index is there, and its first refresh
            // tells the catalog of it.
            Err(ClientError::Fault(fault)) if fault.name == Forbidden::NAME => {}
            marked => drop(marked?),
        }
        Reply::of(&CreateOut { created: true })
    }

    pub(super) async fn delete(&self, call: &Call) -> Result<Reply, Fault> {
        let NameIn { name } = call.parameters()?;
        let Some(index) = lock(&self.indexes).get(&name).cloned() else {
            return Reply::of(&DeleteOut { deleted: false });
        };
        // Nothing may write into a folder that is being removed.
        let claim = index.claim("deletion").await?;
        let stub = self.stub(&name)?;
        let home = Home::open(&stub).map_err(|error| {
            let why = chain(&error);
            let message =
                format!("index `{name}`: {why}; where its files are is unknown, and nothing was deleted: restore that file first");
            Fault::of(&error::Damaged { name: name.clone() }, false, message)
        })?;
        // First what nobody would find again, were it left by a crash.
        self.remove_replicas(&index).await?;
        lock(&self.indexes).remove(&name);
        home.delete(&stub).map_err(|e| io_fault("deleting the index", &e))?;
        drop(claim);
        let dataset = index.parameters.dataset.clone();
        let mark = MarkStaleIn {
            name: dataset,
            index: name,
            mock: Some(self.mock),
            gone: Some(true),
            ..MarkStaleIn::default()
        };
        let options = CallOptions::default();
        let marking = self.client.call_method::<catalog::method::MarkStale>(&mark, &options);
        // It is deleted, whether the catalog hears of it or not; a dataset that is gone feeds
        // nothing.
        if !matches!(tokio::time::timeout(CATALOG_WAIT, marking).await, Ok(Ok(_))) {
            tracing::info!(
                index = mark.index,
                dataset = mark.name,
                "the catalog has not noted that the index was deleted"
            );
        }
        Reply::of(&DeleteOut { deleted: true })
    }
}

/// That a folder holds nothing but what an attempt to create an index left.
fn free(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        if name != "home.json"
            && name != "away.json"
            && !name.to_string_lossy().starts_with(".tmp-")
        {
            let message = format!(
                "{} holds {} of an index that was deleted: move it elsewhere",
                folder.display(),
                name.to_string_lossy()
            );
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
    }
    Ok(())
}
