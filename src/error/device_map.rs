//! Errors of planning a device map.

use super::Explain;

/// A device map was asked for that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceMapError {}

impl Explain for DeviceMapError {}
