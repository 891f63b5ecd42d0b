//! From the library's errors to the classes of `mgpack.errors`.

use mgpack::{Error, Explain as _};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::mention::spoken;

/// The exception for `error`: its sentence, and where, why and help as attributes.
pub(crate) fn to_python(py: Python<'_>, error: &Error) -> PyErr {
    let class = match error {
        Error::Bundle(_) => "BundleError",
        Error::DeviceMap(_) => "DeviceMapError",
        Error::Cache(_) | Error::Checkpoint(_) | Error::Locate(_) | Error::Family(_) => "CheckpointError",
        Error::Hub(_) => "HubError",
        Error::Io(_) => "FileError",
        Error::Plan(_) | Error::Convert(_) | Error::Output(_) => "ConversionError",
        _ => "Error",
    };
    let exception = || -> PyResult<PyErr> {
        let explained = error.explain();
        let fields = PyDict::new(py);
        fields.set_item("path", spoken(explained.place))?;
        fields.set_item("why", spoken(explained.why))?;
        fields.set_item("help", spoken(explained.help))?;
        if let Error::Io(error) = error {
            fields.set_item("errno", error.source.raw_os_error())?;
        }
        let class = py.import("mgpack.errors")?.getattr(class)?;
        Ok(PyErr::from_value(class.call((explained.what,), Some(&fields))?))
    };
    exception().unwrap_or_else(|failure| failure)
}
