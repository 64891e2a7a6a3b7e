//! Vectors to search: made ones, and those of a real model, with what is to be found.

use std::path::Path;
use std::process::Command;

use brahman_sidecar::Connection;
use flat_hnsw::build::mix;
use flat_hnsw::kernel::dot;
use flat_hnsw::store::Store;
use serde_json::{Value, json};

use super::{K, QUERIES, ROWS};
use crate::mesh::Mesh;

const CLUSTERS: usize = 1000;
/// Dimensions in which a cluster spreads.
const RANK: usize = 24;

/// One set of vectors.
pub(super) struct Set {
    pub(super) name: &'static str,
    pub(super) dim: usize,
    pub(super) base: Vec<f32>,
    pub(super) queries: Vec<f32>,
    pub(super) truth: Vec<u32>,
}

/// Normal numbers that depend on the seed only.
struct Normal(u64);

impl Normal {
    fn uniform(&mut self) -> f64 {
        self.0 += 1;
        ((mix(self.0) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> f32 {
        let (a, b) = (self.uniform(), self.uniform());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }

    fn unit(&mut self, out: &mut [f32]) {
        out.iter_mut().for_each(|x| *x = self.next());
        normalise(out);
    }
}

fn normalise(vector: &mut [f32]) {
    let norm = dot(vector, vector).sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
}

pub(super) fn truth(base: &[f32], queries: &[f32], dim: usize) -> Vec<u32> {
    let order: Vec<u32> = (0..(base.len() / dim) as u32).collect();
    let store = Store::new(base, dim, &order).unwrap();
    let queries: Vec<&[f32]> = queries.chunks(dim).collect();
    store.exact_many(&queries, K, None, 2).into_iter().flatten().map(|f| f.row).collect()
}

/// A mixture: clusters around random directions, each spread in a few of its own, and a little
/// noise in all.
pub(super) fn mixture(name: &'static str, dim: usize) -> Set {
    let mut random = Normal(dim as u64);
    let (mut centres, mut spreads) = (vec![0.0; CLUSTERS * dim], vec![0.0; CLUSTERS * RANK * dim]);
    centres.chunks_mut(dim).for_each(|c| random.unit(c));
    spreads.chunks_mut(dim).for_each(|s| random.unit(s));
    let mut draw = |rows: usize| {
        let mut out = vec![0.0; rows * dim];
        for vector in out.chunks_mut(dim) {
            let cluster = (random.uniform() * CLUSTERS as f64) as usize;
            vector.copy_from_slice(&centres[cluster * dim..][..dim]);
            for axis in 0..RANK {
                let amount = random.next() * 0.7 / (RANK as f32).sqrt();
                let direction = &spreads[(cluster * RANK + axis) * dim..][..dim];
                vector.iter_mut().zip(direction).for_each(|(x, d)| *x += amount * d);
            }
            vector.iter_mut().for_each(|x| *x += random.next() * 0.1 / (dim as f32).sqrt());
            normalise(vector);
        }
        out
    };
    let (base, queries) = (draw(ROWS), draw(QUERIES));
    let truth = truth(&base, &queries, dim);
    Set { name, dim, base, queries, truth }
}

/// Vectors of real texts: the descriptions of this machine's packages. Embedded once and kept.
pub(super) async fn minilm(bin: &Path) -> Result<Set, String> {
    let kept = brahman_sidecar::place::cache_dir().join("bench-minilm.f32");
    let dim = 384;
    if !kept.exists() {
        let out = Command::new("apt-cache").arg("dumpavail").output().map_err(|e| e.to_string())?;
        let (mut texts, mut package) = (Vec::new(), String::new());
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            if let Some(name) = line.strip_prefix("Package: ") {
                name.clone_into(&mut package);
            } else if let Some(words) =
                line.strip_prefix("Description: ").or_else(|| line.strip_prefix("Description-en: "))
            {
                texts.push(format!("{package}: {words}"));
            }
        }
        texts.sort();
        texts.dedup();
        if texts.len() < 50_000 {
            return Err(format!("apt-cache dumpavail has {} texts, expected 50,000", texts.len()));
        }
        println!("(embedding {} package descriptions, once)", texts.len());
        let cache = brahman_sidecar::place::cache_dir();
        let mesh = Mesh::up(bin, &["broker", "embed-real"], "prod", &cache);
        mesh.ready("embed-real").await;
        let mut connection = Connection::connect(&mesh.socket()).await.unwrap();
        let mut vectors: Vec<f32> = Vec::new();
        for part in texts.chunks(1000) {
            let out: Value = connection
                .call("org.brahman.Embed.EmbedText", &json!({"texts": part, "truncate": true}))
                .await
                .unwrap();
            let part: Vec<Vec<f32>> = serde_json::from_value(out["vectors"].clone()).unwrap();
            vectors.extend(part.concat());
        }
        std::fs::write(&kept, vectors.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
            .map_err(|e| e.to_string())?;
    }
    let bytes = std::fs::read(&kept).map_err(|e| e.to_string())?;
    let all: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let rows = all.len() / dim;
    let mut order: Vec<usize> = (0..rows).collect();
    order.sort_unstable_by_key(|i| mix(*i as u64));
    let gather = |rows: &[usize]| {
        rows.iter().flat_map(|i| all[i * dim..(i + 1) * dim].iter().copied()).collect::<Vec<f32>>()
    };
    let (queries, base) = (gather(&order[..QUERIES]), gather(&order[QUERIES..]));
    let truth = truth(&base, &queries, dim);
    Ok(Set { name: "MiniLM of package descriptions", dim, base, queries, truth })
}
