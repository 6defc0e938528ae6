use crate::shell::Result;
pub(crate) fn check() -> Result {
    Ok(())
}
pub(crate) fn fix() -> Result {
    Ok(())
}
