//! What a mirror does besides copying: it keeps account of what it wrote. `published` reads and writes the report beside
//! the images, and `bookkeeping` keeps it while a pod works. What a report says is decided in the crate `mirror`.

pub mod bookkeeping;
pub mod published;
