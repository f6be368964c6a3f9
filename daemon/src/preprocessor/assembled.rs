//! Lists the files that the assembler reads where a unit's code says so, and those that only messages show.
//! Knows nothing of how such code is recognised.

use crate::preprocessor::ScanError;
use crate::preprocessor::assembly::AssemblerRead;
use crate::preprocessor::recording::Event;
use crate::preprocessor::replay::INCLUDE_COST;
use crate::preprocessor::replay::Replay;
use crate::preprocessor::source_file::Directive;
use crate::preprocessor::symbol::Symbol;

impl Replay<'_> {
    /// Lists a file that the source says it was made of: GCC shows its lines in messages, from the file itself.
    pub(super) fn quotes(&mut self, name: Symbol) -> Result<(), ScanError> {
        self.recording.note(Event::Unclear);
        self.spend(INCLUDE_COST + self.probed_data.len())?;
        let cwd = self.search.working_directory();
        if let Some(file) = self.search.data(cwd, name)?
            && !self.probed_data.iter().any(|other| other.path == file.path)
        {
            self.probed_data.push(file);
        }
        Ok(())
    }

    /// Lists what the assembler reads. A file that is nowhere is its own affair: the code may not be used.
    pub(super) fn assemble(&mut self, reads: &[AssemblerRead]) -> Result<(), ScanError> {
        self.recording.note(Event::Unclear);
        let mut pending = reads.to_vec();
        while let Some(read) = pending.pop() {
            self.spend(INCLUDE_COST + self.assembled.len())?;
            let name = match read {
                AssemblerRead::Binary(name) | AssemblerRead::Include(name) => name,
                AssemblerRead::Unclear => return Err(self.not_sure_here("file read by the assembler")),
            };
            for file in self.search.assembled(name)? {
                let is_new = !self.assembled.iter().any(|other| other.path == file.path);
                if is_new {
                    self.assembled.push(file.clone());
                }
                // An `.include`d file that was `.incbin`ned before is read as well.
                if matches!(read, AssemblerRead::Include(_))
                    && self.included_assembly.insert(file.path.clone())
                {
                    self.spend(INCLUDE_COST)?;
                    let text = self.search.assembler_text(&file.path)?;
                    for directive in text.iter().flat_map(|source| source.directives()) {
                        if let Directive::Assembly(reads) = directive {
                            pending.extend_from_slice(reads);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
