//! From an environment to a [`Config`], with all errors at once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use lifecycle::DrainConfig;
use transports::swarm_key::{self, SwarmKey};
use zeroize::Zeroizing;

use super::address::is_quic;
use super::environment::Environment;
use super::error::{Errors, VariableError, Warning};
use super::table::{TextHandling, VARIABLES, Variable, name};
use super::value_format::{InstanceName, ValueFormat};
use super::value_sources::{ValueSource, ValueSources};
use super::{Config, checks, template};
use crate::identity::DEFAULT_INSTANCE;
use crate::secret::Secret;
use crate::variable::quote;

/// The file in which Linux keeps the host name.
const HOST_NAME_FILE: &str = "/proc/sys/kernel/hostname";

/// Maximum size of a secret file; a path such as `/dev/zero` must not exhaust the memory.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// A configuration and its warnings.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration; every value is within its bounds.
    pub config: Config,
    /// Warnings for the operator.
    pub warnings: Vec<Warning>,
    /// The sources of the values.
    pub(super) sources: ValueSources,
}

impl Config {
    /// Parses the pairs of an environment, such as `std::env::vars_os()`. Names without the prefix
    /// `RELAY_` are ignored, except for `HOSTNAME`. Reads the files that `_FILE` variables name, and the
    /// machine's host name.
    ///
    /// # Errors
    /// All errors of the environment at once.
    pub fn from_env<K, V>(vars: impl IntoIterator<Item = (K, V)>) -> Result<Loaded, Errors>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        Self::from_env_with(vars, read_file)
    }

    /// Same as [`from_env`](Self::from_env), with `read` in place of the file system.
    ///
    /// # Errors
    /// All errors of the environment at once.
    pub fn from_env_with<K, V>(
        vars: impl IntoIterator<Item = (K, V)>,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Loaded, Errors>
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let mut environment = Environment::from_pairs(vars);
        let mut errors = std::mem::take(&mut environment.errors);
        let mut warnings = environment.warnings();
        let inputs = Inputs::new(environment, &read);
        let mut config = Config::default();
        let mut sources = ValueSources::default();
        for variable in VARIABLES {
            if let Some(source) = inputs.source(variable) {
                sources.insert(variable.name, source);
            }
            errors.extend(inputs.apply(variable, &mut config).err());
        }
        if config.swarm_key.is_some() && !sources.is_set(name::LISTEN_ADDRESSES) {
            config.listen_addresses.retain(|address| !is_quic(address));
        }
        if !sources.is_set(name::DRAIN_TIMEOUT) {
            let longest = config.limits.circuit.duration;
            config.drain.timeout = DrainConfig::default_timeout(longest);
        }
        errors.extend(checks::errors(&config, &sources, &errors));
        Errors::check(errors)?;
        warnings.extend(checks::warnings(&config, &sources));
        Ok(Loaded {
            config,
            warnings,
            sources,
        })
    }
}

/// One layer of values. All values are text: figment would infer types, and parse an instance name of
/// digits as a number.
struct Layer {
    name: &'static str,
    values: BTreeMap<&'static str, String>,
}

impl Layer {
    const DEFAULTS: &str = "defaults";
    const ENVIRONMENT: &str = "environment";
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let text =
            |(name, text): (&&str, &String)| ((*name).to_owned(), Value::from(text.as_str()));
        Ok(Profile::Default.collect(self.values.iter().map(text).collect()))
    }
}

/// The inputs of a configuration.
struct Inputs<'a> {
    /// The default of the instance name below the environment.
    layers: Figment,
    /// The paths of secret files. Their contents are not part of a layer, which would keep copies in
    /// memory.
    files: BTreeMap<&'static str, String>,
    read: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl<'a> Inputs<'a> {
    fn new(environment: Environment, read: &'a dyn Fn(&Path) -> io::Result<String>) -> Self {
        let instance = host_name(environment.host_name, read);
        let defaults = BTreeMap::from([(name::INSTANCE, instance)]);
        let layers = Figment::from(Layer {
            name: Layer::DEFAULTS,
            values: defaults,
        })
        .merge(Layer {
            name: Layer::ENVIRONMENT,
            values: environment.values,
        });
        Self {
            layers,
            files: environment.files,
            read,
        }
    }

    fn source(&self, variable: &Variable) -> Option<ValueSource> {
        if self.files.contains_key(variable.name) {
            return Some(ValueSource::File);
        }
        let layer = self.layers.find_metadata(variable.name)?;
        (layer.name == Layer::ENVIRONMENT).then_some(ValueSource::Variable)
    }

    /// Sets the field of `variable` if the variable has a value.
    fn apply(&self, variable: &Variable, config: &mut Config) -> Result<(), VariableError> {
        if let Some(path) = self.files.get(variable.name) {
            return self.apply_file(variable, path, config);
        }
        if !self.layers.contains(variable.name) {
            return Ok(());
        }
        let text = Zeroizing::new(self.text(variable.name)?);
        let refuse = |problem: String| {
            let shown = match variable.handling {
                TextHandling::Secret | TextHandling::Url => Secret::MASK,
                TextHandling::Plain | TextHandling::EmptyIsValue | TextHandling::Template => {
                    &quote(&text)
                }
            };
            variable.refuse(variable.name, shown, &problem)
        };
        if variable.handling == TextHandling::Template {
            let expanded = template::expand(&text, &self.text(name::INSTANCE)?).map_err(refuse)?;
            let result = (variable.field.set)(config, &expanded);
            return result.map_err(|problem| {
                if *text == expanded {
                    refuse(problem)
                } else {
                    refuse(format!("expands to {}, which {problem}", quote(&expanded)))
                }
            });
        }
        (variable.field.set)(config, &text).map_err(refuse)
    }

    /// Sets the field of a secret from the file at `path`.
    fn apply_file(
        &self,
        variable: &Variable,
        path: &str,
        config: &mut Config,
    ) -> Result<(), VariableError> {
        let file_name = variable.file_name().unwrap_or_default();
        if self.layers.contains(variable.name) {
            let message = format!("cannot be set together with {}", variable.name);
            return Err(VariableError::new(&file_name, message));
        }
        let shown = show_path(path);
        let text = (self.read)(Path::new(path))
            .map(Zeroizing::new)
            .map_err(|error| {
                VariableError::new(&file_name, format!("{shown} cannot be read: {error}"))
            })?;
        (variable.field.set)(config, text.trim_end_matches(['\r', '\n'])).map_err(|problem| {
            variable.refuse(&file_name, &format!("the content of {shown}"), &problem)
        })
    }

    /// The value of a variable that is set.
    fn text(&self, name: &str) -> Result<String, VariableError> {
        self.layers
            .extract_inner(name)
            .map_err(|error| VariableError::new(name, error.to_string()))
    }
}

/// A path for a message. A text that does not start like a path is masked, because it may be the secret
/// itself.
fn show_path(path: &str) -> String {
    if path.starts_with(['/', '.']) {
        quote(path)
    } else {
        format!(
            "the file (its name, which does not start with `/` or `.`, is {})",
            Secret::MASK
        )
    }
}

/// The machine's host name, if it is a valid instance name.
fn host_name(variable: Option<String>, read: &dyn Fn(&Path) -> io::Result<String>) -> String {
    let usable = |text: String| InstanceName.parse(text.trim()).ok();
    variable
        .and_then(usable)
        .or_else(|| read(Path::new(HOST_NAME_FILE)).ok().and_then(usable))
        .unwrap_or_else(|| DEFAULT_INSTANCE.to_owned())
}

fn read_file(path: &Path) -> io::Result<String> {
    let mut content = Zeroizing::new(Vec::new());
    let read = File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut content)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 64 KiB",
        ));
    }
    // A swarm key may be binary.
    if content.starts_with(swarm_key::BINARY_START)
        && let Ok(key) = SwarmKey::parse(&content)
    {
        return Ok(key.to_file().to_string());
    }
    let text = std::str::from_utf8(&content)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "is not UTF-8 text"))?;
    Ok(text.to_owned())
}
