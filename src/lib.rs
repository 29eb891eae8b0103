//! `gitlab-pi-backup` makes both backups of a self-hosted GitLab and brings them to Dropbox, so surely
//! that a power cut, a bad line or a failing GitLab can neither lose an archive nor let a stale one pass
//! for today's.
//!
//! # The map
//!
//! Four floors; imports go down only, and a test holds them.
//!
//! Floor 4, the program (may print):
//! [`cli`] the command line · [`config`] reads and checks the TOML file · [`logging`] log lines ·
//! [`commands`] one file per subcommand.
//!
//! Floor 3, operations (print nothing, return reports):
//! [`backup`] the run · [`report`] what it did, and the exit status · [`history`] what earlier runs did ·
//! [`manifest`] what a stored backup consists of · [`guard`] whether it shrank · [`recovery`] how a person
//! gets back without this program · [`catalog`] what is stored at a destination · [`listing`] it as a table ·
//! [`verify`] it against the manifests · [`retention`] which backups are kept · [`prune`] the others go ·
//! [`rehearse`] proving that a backup would restore · [`restore`] the way back · [`extract`] one project's repositories out of a stored backup ·
//! [`job`] what is done again and again ·
//! [`sync`] what a destination still lacks · [`projects`] exports of projects, by GitLab's API · [`local`] archives on this machine, in whatever form · [`hooks`] the user's own commands
//! around a run · [`notify`] who is told how it ended · [`status`] whether the newest backup is complete and fresh ·
//! [`page`] the report page · [`schedule`] what starts runs by itself · [`doctor`] whether everything a run needs is
//! there · [`login`] the way to a refresh token and a first configuration.
//!
//! Floor 2, the parts (siblings do not know each other):
//! [`source::file`] a file that is sent · [`source::memory`] a few bytes that are ·
//! [`source::tree`] a folder, as a tar that is never written · [`source::sealed`] any of them, encrypted ·
//! [`destination`] places that keep archives · [`destination::dropbox`] Dropbox, with the transfer engine ·
//! [`destination::opendal`] folders and object stores · [`destination::webdav`] `WebDAV` servers · [`gitlab`] GitLab's
//! commands, a look into what they make, and its API.
//!
//! Floor 1, the ground:
//! [`source`] bytes that can be read again · [`archive`] GitLab's names, and which is the newest ·
//! [`content_hash`] the hash that proves what was stored · [`seal`] the encryption of archives, in age's format ·
//! [`tar`] the structure of an archive, at
//! random or as a stream ·
//! [`error`] errors of anything remote · [`http`] the HTTP client · [`retry`] the one loop that sleeps ·
//! [`settings`] reads settings and collects faults · [`state`] lock and durable files ·
//! [`stop`] signals · [`process`] commands that are run to their end · [`progress`] how far an upload is · [`units`] sizes, durations, rates.

pub mod archive;
pub mod backup;
pub mod catalog;
pub mod cli;
pub mod commands;
pub mod config;
pub mod content_hash;
pub mod destination;
pub mod doctor;
pub mod error;
pub mod extract;
pub mod gitlab;
pub mod guard;
pub mod history;
pub mod hooks;
pub mod http;
pub mod job;
pub mod listing;
pub mod local;
pub mod logging;
pub mod login;
pub mod manifest;
pub mod notify;
pub mod page;
pub mod process;
pub mod progress;
pub mod projects;
pub mod prune;
pub mod recovery;
pub mod rehearse;
pub mod report;
pub mod restore;
pub mod retention;
pub mod retry;
pub mod schedule;
pub mod seal;
pub mod settings;
pub mod source;
pub mod state;
pub mod status;
pub mod stop;
pub mod sync;
pub mod tar;
pub mod units;
pub mod verify;
