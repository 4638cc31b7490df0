//! Tags with variables: `$(commit)`, `$(shortCommit)`, `$(branch)` and `$(tag)`. Which of them a spec may use is checked
//! before anything is built; the values are made to fit the grammar of tags.

use oci::Tag;

/// Digits of `$(shortCommit)`, as git shows them.
const SHORT: usize = 7;

/// A tag as the spec writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variable {
    Commit,
    ShortCommit,
    Branch,
    Tag,
}

/// What a source can say for the variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Values {
    /// The commit, of a git source.
    pub commit: Option<String>,
    /// The branch that is named in the spec.
    pub branch: Option<String>,
    /// The git tag that is named in the spec.
    pub tag: Option<String>,
}

/// Why a text is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// `$(…` without an end.
    #[error("a `$(` has no `)`")]
    Unclosed,
    /// A variable that does not exist.
    #[error(
        "`$({0})` is not a variable: there are $(commit), $(shortCommit), $(branch) and $(tag)"
    )]
    Unknown(String),
    /// A variable whose value people choose, where it could make any tag.
    #[error(
        "`$({0})` needs text before it, for instance `branch-$({0})`: a branch or tag of that name could take any other tag's place"
    )]
    NoPrefix(&'static str),
    /// A variable for which the source has no value.
    #[error("`$({0})` has no value: it needs {1}")]
    NoValue(&'static str, &'static str),
    /// The result is not a tag.
    #[error("{0}")]
    Grammar(#[from] oci::ReferenceError),
}

impl Variable {
    const fn name(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::ShortCommit => "shortCommit",
            Self::Branch => "branch",
            Self::Tag => "tag",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Commit, Self::ShortCommit, Self::Branch, Self::Tag]
            .into_iter()
            .find(|variable| variable.name() == name)
    }

    const fn needs(self) -> &'static str {
        match self {
            Self::Commit | Self::ShortCommit => "a git source",
            Self::Branch => "source.git.ref.branch",
            Self::Tag => "source.git.ref.tag",
        }
    }

    fn value(self, values: &Values) -> Option<String> {
        match self {
            Self::Commit => values.commit.clone(),
            Self::ShortCommit => values
                .commit
                .as_ref()
                .map(|commit| commit.chars().take(SHORT).collect()),
            Self::Branch => values.branch.as_deref().map(sanitise),
            Self::Tag => values.tag.as_deref().map(sanitise),
        }
    }
}

impl TagTemplate {
    /// Reads a tag with variables.
    ///
    /// # Errors
    /// When a variable is unknown, or stands where its value could make any tag.
    pub fn parse(text: &str) -> Result<Self, TagError> {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut literal_before = false;
        while let Some(start) = rest.find("$(") {
            if start > 0 {
                parts.push(Part::Literal(rest[..start].to_owned()));
                literal_before = true;
            }
            let (name, after) = rest[start + 2..]
                .split_once(')')
                .ok_or(TagError::Unclosed)?;
            let variable =
                Variable::parse(name).ok_or_else(|| TagError::Unknown(name.to_owned()))?;
            if matches!(variable, Variable::Branch | Variable::Tag) && !literal_before {
                return Err(TagError::NoPrefix(variable.name()));
            }
            parts.push(Part::Variable(variable));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The tag with the values put in.
    ///
    /// # Errors
    /// When a value is missing, or the result is not a tag.
    pub fn expand(&self, values: &Values) -> Result<Tag, TagError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Variable(variable) => {
                    let value = variable
                        .value(values)
                        .ok_or(TagError::NoValue(variable.name(), variable.needs()))?;
                    text.push_str(&value);
                }
            }
        }
        Ok(text.parse()?)
    }
}

/// `value` with everything that no tag may hold replaced by `-`.
fn sanitise(value: &str) -> String {
    value
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') {
                c
            } else {
                '-'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(template: &str, branch: &str) -> Result<String, TagError> {
        let values = Values {
            commit: Some("0123456789abcdef0123456789abcdef01234567".into()),
            branch: Some(branch.to_owned()).filter(|b| !b.is_empty()),
            tag: None,
        };
        let tag = TagTemplate::parse(template)?.expand(&values)?;
        Ok(tag.as_str().to_owned())
    }

    #[test]
    fn variables_are_replaced_and_made_to_fit() {
        for (template, branch, expected) in [
            ("latest", "", "latest"),
            ("$(commit)", "", "0123456789abcdef0123456789abcdef01234567"),
            ("$(shortCommit)-dev", "", "0123456-dev"),
            ("branch-$(branch)", "main", "branch-main"),
            ("branch-$(branch)", "feature/ä b", "branch-feature---b"),
            ("$(shortCommit)-$(branch)", "main", "0123456-main"),
        ] {
            assert_eq!(expand(template, branch).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_a_tag_is_refused_by_name() {
        for (template, branch, expected) in [
            ("$(comit)", "", "`$(comit)` is not a variable"),
            ("$(branch)", "main", "needs text before it"),
            ("$(shortCommit)$(branch)", "main", "needs text before it"),
            ("v-$(tag)", "main", "it needs source.git.ref.tag"),
            ("v-$(commit", "", "has no `)`"),
            (".$(commit)", "", "is not a tag"),
            ("", "", "is not a tag"),
        ] {
            let error = expand(template, branch).map_err(|error| error.to_string());
            assert!(
                error
                    .as_ref()
                    .is_err_and(|message| message.contains(expected)),
                "{template}: {error:?}"
            );
        }
        assert!(expand("b-$(branch)", &"x".repeat(127)).is_err());
    }
}
