//! The keeping of a report while a pod works: what earlier syncs wrote is read first, what becomes of each image is noted,
//! and the whole is written once at the end.

use distribution::Client;
use distribution::copy::CopyReport;
use jiff::Timestamp;
use mirror::{Failed, Place, Report, Written};
use oci::{Digest, Reference, RegistryHost, Repository, Tag};
use protocol::{Failure, FailureKind, ReportRequest};

use super::published::{self, ReadError};
use crate::error::chain;
use crate::outcome;

/// A report that is being kept.
pub struct Books {
    client: Client,
    repository: Repository,
    tag: Tag,
    /// The report that was read.
    previous: Option<Digest>,
    /// What it says now.
    pub report: Report,
}

/// An image of a request, as the report names it.
pub struct Subject {
    /// What is copied.
    pub from: Reference,
    /// Where to.
    pub place: Place,
}

impl Subject {
    /// The copy of `from` to the tag `to`; none where it gets no tag.
    pub fn new(from: &Reference, to: &Reference) -> Option<Self> {
        Some(Self {
            from: from.clone(),
            place: Place::new(to.repository().path(), to.tag()?.clone()),
        })
    }
}

impl Books {
    /// Reads what earlier syncs wrote. A report that is gone or broken is begun anew: what it named is never deleted.
    ///
    /// # Errors
    /// When `request` is malformed, or the registry cannot be asked: what is written next would have no account.
    pub async fn open(client: &Client, request: &ReportRequest) -> Result<Self, Box<Failure>> {
        fn invalid(error: impl std::fmt::Display) -> Box<Failure> {
            let message = format!("the place of the report: {error}");
            Box::new(Failure::new(FailureKind::InvalidRequest, message))
        }
        let repository: Repository = request.repository.parse().map_err(invalid)?;
        let tag: Tag = request.owner.parse().map_err(invalid)?;
        let previous = request.previous.as_deref().map(str::parse);
        let previous: Option<Digest> = previous.transpose().map_err(invalid)?;
        let mut report = None;
        if let Some(digest) = &previous {
            report = match published::read(client, &repository, digest, &request.owner).await {
                Ok(report) => report,
                Err(ReadError::Registry(error)) => {
                    return Err(Box::new(outcome::copy_failure(&error)));
                }
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the report is begun anew");
                    None
                }
            };
        }
        let previous = previous.filter(|_| report.is_some());
        Ok(Self {
            client: client.clone(),
            repository,
            tag,
            previous,
            report: report.unwrap_or_else(|| Report::new(&*request.owner)),
        })
    }

    /// The registry that the report is of.
    pub const fn host(&self) -> &RegistryHost {
        self.repository.host()
    }

    /// Notes what became of `subject`.
    pub fn note(&mut self, subject: &Subject, job: &Done<'_>, now: Timestamp) {
        let place = subject.place.clone();
        match job.result {
            // Somebody else may have written it: it is not ours to delete.
            Ok(done) if done.unchanged => self.report.note_equal(&place),
            Ok(done) => {
                let digest = done.root.digest.clone();
                let written = Written {
                    source: subject.from.repository().to_string().into(),
                    source_digest: subject.from.digest().unwrap_or(&digest).clone(),
                    digest,
                    platforms: job.platforms.clone(),
                    synced_at: whole_seconds(now),
                };
                self.report.note_written(place, written);
            }
            // Nothing is wrong with it: nobody got to it.
            Err(failure) if failure.kind == FailureKind::Cancelled => {}
            Err(failure) => {
                let failed = Failed {
                    source: subject.from.to_string(),
                    reason: format!("{:?}", failure.kind),
                    message: failure.message.clone(),
                    at: whole_seconds(now),
                };
                self.report.note_failed(place, failed);
            }
        }
    }

    /// Writes the report, where something in it changed, and gives its digest. A report that cannot be written fails
    /// nothing: that is told in the log, and what this sync wrote is never deleted.
    pub async fn keep(&mut self, now: Timestamp) -> Option<Digest> {
        self.report.forget_old_failures(whole_seconds(now));
        if self.previous.is_none() && self.report.is_empty() {
            return None;
        }
        let artifact = self.report.to_artifact();
        if self.previous.as_ref() == Some(&Digest::of(&artifact.manifest)) {
            return None;
        }
        match published::write(&self.client, &self.repository, &self.tag, artifact).await {
            Ok(digest) => {
                self.previous = Some(digest.clone());
                Some(digest)
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the report cannot be written");
                None
            }
        }
    }
}

/// How a copy ended.
pub struct Done<'a> {
    /// What it came to.
    pub result: Result<&'a CopyReport, &'a Failure>,
    /// Which platforms were asked for.
    pub platforms: &'a distribution::copy::Platforms,
}

fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use distribution::copy::{Amount, Platforms};
    use distribution::memory::{Fault, MemoryRegistry};
    use distribution::{Guard, RetryPolicy};
    use oci::{Descriptor, MediaType};

    use super::*;

    fn client() -> Client {
        let retry = RetryPolicy {
            attempts: 1,
            ..RetryPolicy::default()
        };
        let client = Client::builder().guard(Guard::Open).retry(retry);
        client.build().unwrap()
    }

    async fn open(registry: &MemoryRegistry, previous: Option<&Digest>) -> Result<Books, Failure> {
        let request = ReportRequest {
            repository: registry.repository("team/coopery-report").to_string(),
            owner: "uid-1".to_owned(),
            previous: previous.map(Digest::to_string),
        };
        let books = Books::open(&client(), &request).await;
        books.map_err(|failure| *failure)
    }

    fn note(books: &mut Books, tag: &str, result: Result<bool, FailureKind>, second: i64) {
        let parse = |name: &str| -> Reference { name.parse().unwrap() };
        let from = parse(&format!("docker.io/acme/app:{tag}"));
        let from = from.pinned(Digest::of(b"source"));
        let to = parse(&format!("r.example/mirror/app:{tag}"));
        let result = result
            .map(|unchanged| CopyReport {
                root: Descriptor::of(MediaType::OciManifest, tag.as_bytes()),
                unchanged,
                manifests: 1,
                referrers: 0,
                copied: Amount::default(),
                mounted: Amount::default(),
            })
            .map_err(|kind| Failure::new(kind, "it answered 503"));
        let done = Done {
            result: result.as_ref(),
            platforms: &Platforms::Whole,
        };
        let subject = Subject::new(&from, &to).unwrap();
        books.note(&subject, &done, at(second));
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn written(books: &Books) -> Vec<String> {
        let written = books.report.written().iter();
        written
            .map(|(place, written)| format!("{place} {}", written.synced_at))
            .collect()
    }

    #[tokio::test]
    async fn what_was_written_is_kept_from_one_sync_to_the_next() {
        let registry = MemoryRegistry::start().await;
        let mut books = open(&registry, None).await.unwrap();
        assert_eq!(books.keep(at(0)).await, None, "there is nothing to say");
        note(&mut books, "1", Ok(false), 0);
        note(&mut books, "2", Err(FailureKind::RegistryUnavailable), 0);
        note(&mut books, "3", Ok(true), 0);
        note(&mut books, "4", Err(FailureKind::Cancelled), 0);
        let first = books.keep(at(0)).await.unwrap();
        let tagged = registry.manifest("team/coopery-report", "uid-1").unwrap();
        assert_eq!(tagged.digest, first);

        let mut books = open(&registry, Some(&first)).await.unwrap();
        assert_eq!(written(&books), ["mirror/app:1 2027-01-15T08:00:00Z"]);
        let place = Place::new("mirror/app", "1".parse().unwrap());
        let source = Digest::of(b"source");
        assert_eq!(books.report.written()[&place].source_digest, source);
        assert_eq!(books.report.failed().len(), 1);
        assert_eq!(books.keep(at(1)).await, None, "nothing changed");
        note(&mut books, "2", Ok(false), 1);
        let second = books.keep(at(1)).await.unwrap();
        let books = open(&registry, Some(&second)).await.unwrap();
        let expected = [
            "mirror/app:1 2027-01-15T08:00:00Z",
            "mirror/app:2 2027-01-15T08:00:01Z",
        ];
        assert_eq!(written(&books), expected);
        assert!(books.report.failed().is_empty());
    }

    #[tokio::test]
    async fn a_report_that_is_gone_or_anothers_is_begun_anew() {
        let registry = MemoryRegistry::start().await;
        let gone = Digest::of(b"gone");
        let text =
            r#"{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"D","size":1},"layers":[]}"#;
        let text = text.replace('D', gone.as_str());
        let path = "team/coopery-report";
        let foreign = registry.add_manifest(path, None, MediaType::OciManifest, text);
        for previous in [gone, foreign] {
            let mut books = open(&registry, Some(&previous)).await.unwrap();
            assert!(books.report.is_empty());
            note(&mut books, "1", Ok(false), 0);
            assert!(books.keep(at(0)).await.is_some());
        }
    }

    #[tokio::test]
    async fn a_registry_that_does_not_answer_fails_before_anything_is_copied() {
        let registry = MemoryRegistry::start().await;
        registry.set_faults(|_| Some(Fault::Answer(503, Vec::new(), String::new())));
        let failure = open(&registry, Some(&Digest::of(b"x"))).await;
        let failure = failure.err().unwrap();
        assert_eq!(failure.kind, FailureKind::RegistryUnavailable);
    }
}
