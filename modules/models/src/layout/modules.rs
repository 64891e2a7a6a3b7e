//! sentence-transformers' modules: what `modules.json` and the folders it names say of the way from
//! tokens to a vector.

use serde_json::Value;

use super::LayoutError;
use super::folder::{Folder, below, is_inside, number};
use super::plan::{Activation, Dense, LayerNorm, Pooling, PoolingMode, Stage};
use crate::safetensors;

/// Where pooling is described in a folder that has no `modules.json`.
const POOLING: &str = "1_Pooling";
/// Modules whose kind is known, for errors.
const KINDS: &str = "Transformer, Pooling, Dense, LayerNorm, Normalize";

/// What `modules.json` says.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// Folder of the transformer's own files; empty for the model's.
    pub(super) transformer: String,
    /// How tokens are pooled, and which file says so.
    pub(super) pooling: Option<(Pooling, String)>,
    /// What follows.
    pub(super) stages: Vec<Stage>,
    /// Whether there is a `modules.json`.
    pub(super) is_said: bool,
}

/// Reads the modules. Where the graph pools by itself (`is_pooled`) it has the modules behind
/// pooling in it, and of them only `Normalize` counts, which changes nothing if it is done twice.
pub(super) fn read(folder: &Folder, is_pooled: bool) -> Result<Modules, LayoutError> {
    let mut modules = Modules::default();
    let file = "modules.json";
    let Some(list) = folder.json(file)? else {
        if !is_pooled && let Some(config) = folder.json(&below(POOLING, "config.json"))? {
            let place = below(POOLING, "config.json");
            modules.pooling = Some((pooling(&config, &place)?, place));
        }
        return Ok(modules);
    };
    modules.is_said = true;
    let list = list
        .as_array()
        .ok_or_else(|| LayoutError::Module { place: file.to_owned(), flaw: ModuleFlaw::NoList })?;
    for (at, module) in list.iter().enumerate() {
        let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
        let path = module.get("path").and_then(Value::as_str).unwrap_or_default();
        let refuse = |flaw: ModuleFlaw| LayoutError::Module {
            place: if path.is_empty() { file } else { path }.to_owned(),
            flaw,
        };
        if !path.is_empty() && !is_inside(path) {
            return Err(refuse(ModuleFlaw::Outside { path: path.to_owned() }));
        }
        let name = kind.rsplit('.').next().unwrap_or_default();
        if !kind.starts_with("sentence_transformers.") {
            // The code of somebody's own, which is not run.
            return Err(refuse(ModuleFlaw::Kind { kind: kind.to_owned() }));
        }
        match (at, name) {
            (0, "Transformer") => modules.transformer = path.to_owned(),
            (0, _) => return Err(refuse(ModuleFlaw::Kind { kind: kind.to_owned() })),
            (_, "Transformer") => return Err(refuse(ModuleFlaw::Order { kind: kind.to_owned() })),
            (_, "Normalize") => modules.stages.push(Stage::Normalize),
            // It does nothing but in training.
            (_, "Dropout") => {}
            (_, "Pooling" | "Dense" | "LayerNorm") if is_pooled => {}
            (_, "Pooling") if modules.pooling.is_none() && modules.stages.is_empty() => {
                let place = below(path, "config.json");
                let config = folder
                    .json(&place)?
                    .ok_or_else(|| refuse(ModuleFlaw::NoConfig { kind: name.to_owned() }))?;
                modules.pooling = Some((pooling(&config, &place)?, place));
            }
            (_, "Dense" | "LayerNorm") if modules.pooling.is_none() => {
                return Err(refuse(ModuleFlaw::Order { kind: kind.to_owned() }));
            }
            (_, "Dense") => modules.stages.push(Stage::Dense(dense(folder, path)?)),
            (_, "LayerNorm") => modules.stages.push(Stage::LayerNorm(layer_norm(folder, path)?)),
            (_, "Pooling") => return Err(refuse(ModuleFlaw::Order { kind: kind.to_owned() })),
            _ => return Err(refuse(ModuleFlaw::Kind { kind: kind.to_owned() })),
        }
    }
    Ok(modules)
}

/// Modes as a person names them: one, or several joined by `+`.
pub(super) fn modes_of(text: &str) -> Option<Vec<PoolingMode>> {
    let mut modes =
        text.split('+').map(PoolingMode::parse).collect::<Option<Vec<PoolingMode>>>()?;
    modes.sort_unstable();
    modes.dedup();
    Some(modes)
}

fn pooling(config: &Value, place: &str) -> Result<Pooling, LayoutError> {
    let refuse = |mode: String| LayoutError::Module {
        place: place.to_owned(),
        flaw: ModuleFlaw::Pooling { mode },
    };
    let mut modes = Vec::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        match (key.strip_prefix("pooling_mode_"), value) {
            (Some(mode), Value::Bool(true)) => {
                modes.push(PoolingMode::parse(mode).ok_or_else(|| refuse(mode.to_owned()))?);
            }
            (None, Value::String(text)) if key == "pooling_mode" => {
                modes.extend(modes_of(text).ok_or_else(|| refuse(text.clone()))?);
            }
            (None, value) if key == "pooling_mode" && !value.is_null() => {
                return Err(refuse(value.to_string()));
            }
            _ => {}
        }
    }
    if modes.is_empty() {
        return Err(refuse("none".to_owned()));
    }
    modes.sort_unstable();
    modes.dedup();
    let include_prompt = config.get("include_prompt").and_then(Value::as_bool).unwrap_or(true);
    Ok(Pooling { modes, include_prompt })
}

/// Bytes of a module's weights.
fn weights(folder: &Folder, path: &str, kind: &str) -> Result<(Vec<u8>, String), LayoutError> {
    let file = below(path, "model.safetensors");
    if !folder.has(&file) {
        let pickled = below(path, "pytorch_model.bin");
        let flaw = if folder.has(&pickled) {
            ModuleFlaw::Pickled { kind: kind.to_owned(), file: pickled }
        } else {
            ModuleFlaw::NoWeights { kind: kind.to_owned() }
        };
        return Err(LayoutError::Module { place: path.to_owned(), flaw });
    }
    folder.bytes(&file)
}

/// A tensor's numbers, which must have this shape; `None` if there is no such tensor.
fn tensor(bytes: &[u8], name: &str, shape: &[usize]) -> Result<Option<Vec<f32>>, ModuleFlaw> {
    let tensors = safetensors::parse(bytes)?;
    let Some(tensor) = tensors.get(name) else { return Ok(None) };
    if tensor.shape != shape {
        return Err(ModuleFlaw::Shape {
            name: name.to_owned(),
            found: tensor.shape.clone(),
            expected: shape.to_vec(),
        });
    }
    Ok(Some(tensor.floats(name)?))
}

fn dense(folder: &Folder, path: &str) -> Result<Dense, LayoutError> {
    let refuse = |flaw: ModuleFlaw| LayoutError::Module { place: path.to_owned(), flaw };
    let kind = || "Dense".to_owned();
    let config = folder
        .json(&below(path, "config.json"))?
        .ok_or_else(|| refuse(ModuleFlaw::NoConfig { kind: kind() }))?;
    let (Some(inputs), Some(outputs)) =
        (number(&config, "in_features"), number(&config, "out_features"))
    else {
        return Err(refuse(ModuleFlaw::NoConfig { kind: kind() }));
    };
    // A dense layer over something else than the pooled vector, as models with a vector a token
    // have it.
    for key in ["module_input_name", "module_output_name"] {
        if let Some(name) =
            config.get(key).and_then(Value::as_str).filter(|name| *name != "sentence_embedding")
        {
            return Err(refuse(ModuleFlaw::Kind { kind: format!("Dense over {name}") }));
        }
    }
    let function = config
        .get("activation_function")
        .and_then(Value::as_str)
        .unwrap_or("torch.nn.modules.activation.Tanh");
    let activation = match function.rsplit('.').next().unwrap_or_default() {
        "Identity" => Activation::Identity,
        "Tanh" => Activation::Tanh,
        "ReLU" => Activation::Relu,
        "GELU" => Activation::Gelu,
        "SiLU" => Activation::Silu,
        _ => return Err(refuse(ModuleFlaw::Activation { function: function.to_owned() })),
    };
    let (bytes, sha256) = weights(folder, path, "Dense")?;
    let absent = |name: &str| refuse(ModuleFlaw::NoTensor { name: name.to_owned() });
    let weight = tensor(&bytes, "linear.weight", &[outputs, inputs])
        .map_err(refuse)?
        .ok_or_else(|| absent("linear.weight"))?;
    let has_bias = config.get("bias").and_then(Value::as_bool).unwrap_or(true);
    let bias = if has_bias {
        tensor(&bytes, "linear.bias", &[outputs])
            .map_err(refuse)?
            .ok_or_else(|| absent("linear.bias"))?
    } else {
        Vec::new()
    };
    Ok(Dense { path: path.to_owned(), inputs, outputs, weight, bias, activation, sha256 })
}

fn layer_norm(folder: &Folder, path: &str) -> Result<LayerNorm, LayoutError> {
    let refuse = |flaw: ModuleFlaw| LayoutError::Module { place: path.to_owned(), flaw };
    let config = folder.json(&below(path, "config.json"))?;
    let dim = config.as_ref().and_then(|config| number(config, "dimension"));
    let dim = dim.ok_or_else(|| refuse(ModuleFlaw::NoConfig { kind: "LayerNorm".to_owned() }))?;
    let (bytes, sha256) = weights(folder, path, "LayerNorm")?;
    let part = |name: &str| -> Result<Vec<f32>, LayoutError> {
        tensor(&bytes, name, &[dim])
            .map_err(refuse)?
            .ok_or_else(|| refuse(ModuleFlaw::NoTensor { name: name.to_owned() }))
    };
    Ok(LayerNorm {
        path: path.to_owned(),
        weight: part("norm.weight")?,
        bias: part("norm.bias")?,
        sha256,
    })
}

/// What is wrong with a module of `modules.json`.
#[derive(Debug, thiserror::Error)]
pub enum ModuleFlaw {
    /// It is no list.
    #[error("expected a list of modules")]
    NoList,
    /// Its folder is elsewhere.
    #[error("a module's path is `{path}`, expected a folder inside the model's")]
    Outside {
        /// Where it is said to be.
        path: String,
    },
    /// It is not known.
    #[error(
        "a module of type `{kind}`, which is not served; known are {KINDS}, as sentence-transformers has them"
    )]
    Kind {
        /// Its type.
        kind: String,
    },
    /// It stands where it has no sense.
    #[error(
        "a module of type `{kind}` stands where none is expected: a Transformer comes first, then Pooling, then the others"
    )]
    Order {
        /// Its type.
        kind: String,
    },
    /// Nothing says what it is like.
    #[error("a {kind} module whose config.json is missing or says no dimensions")]
    NoConfig {
        /// Its type's last word.
        kind: String,
    },
    /// A way of pooling that is not known.
    #[error(
        "pooling mode `{mode}`, expected cls, mean, max, mean_sqrt_len, weightedmean or lasttoken; BRAHMAN_EMBED_POOLING in the Card, or \
         `pooling` in brahman.json, says another"
    )]
    Pooling {
        /// As the file has it.
        mode: String,
    },
    /// A function that is not known.
    #[error(
        "the dense layer's activation function is `{function}`, expected Identity, Tanh, ReLU, GELU or SiLU"
    )]
    Activation {
        /// As the file has it.
        function: String,
    },
    /// Weights that are a program.
    #[error(
        "the {kind} module's weights are in {file}, which is a pickle and not read; expected model.safetensors beside it"
    )]
    Pickled {
        /// Its type's last word.
        kind: String,
        /// Where they are.
        file: String,
    },
    /// There are no weights.
    #[error("the {kind} module has no model.safetensors")]
    NoWeights {
        /// Its type's last word.
        kind: String,
    },
    /// The weights lack a tensor.
    #[error("model.safetensors has no tensor {name}")]
    NoTensor {
        /// Which.
        name: String,
    },
    /// A tensor is of another shape.
    #[error("{name} has shape {found:?}, config.json says {expected:?}")]
    Shape {
        /// Which.
        name: String,
        /// As it is.
        found: Vec<usize>,
        /// As it should be.
        expected: Vec<usize>,
    },
    /// The weights are no safetensors.
    #[error("model.safetensors")]
    Weights(#[from] safetensors::TensorsError),
}
