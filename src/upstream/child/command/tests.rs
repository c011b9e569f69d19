use crate::settings::Secret;

use super::*;

fn target(program: &str) -> StdioTarget {
    StdioTarget { program: program.into(), args: vec![], env: vec![], pass_env: vec![], cwd: None }
}

#[cfg(unix)]
#[test]
fn only_listed_variables_are_inherited_and_configured_ones_win() {
    let own = ["PATH=/bin", "LC_ALL=C", "API_TOKEN=hush", "path=/no", "LCX=1", "EXTRA=yes", "LD_PRELOAD=/evil.so"]
        .iter()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.into(), value.into()));
    let mut target = target("x");
    target.pass_env = vec!["EXTRA".into()];
    target.env = vec![("PATH".into(), Secret("/opt/bin".into()))];
    let pairs: Vec<_> = environment(&target, own)
        .into_iter()
        .map(|(name, value)| format!("{}={}", name.display(), value.display()))
        .collect();
    assert_eq!(pairs, ["PATH=/bin", "LC_ALL=C", "EXTRA=yes", "PATH=/opt/bin"]);
}

#[test]
fn a_bare_name_is_found_with_the_usual_windows_extensions() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (folder, file) in [(0, "npx"), (1, "npx.cmd"), (0, "both.bat"), (0, "both.cmd")] {
        std::fs::write(folders[folder].path().join(file), "").unwrap();
    }
    let path = std::env::join_paths(folders.iter().map(|folder| folder.path())).unwrap();
    let find = |program: &str| find_with_extension(program, &path);
    assert_eq!(find("npx"), Some(folders[1].path().join("npx.cmd")), "not the shell script of the same name");
    assert_eq!(find("both"), Some(folders[0].path().join("both.cmd")));
    assert_eq!(find("npx.cmd"), None, "the system finds what has an extension");
    assert_eq!(find("./npx"), None);
    assert_eq!(find("absent"), None);
}

#[cfg(unix)]
mod errors {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Outside a runtime `start` cannot succeed; inside, nothing is started here either.
    #[tokio::test]
    async fn each_says_what_to_do_and_none_says_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.into_os_string().into_string().unwrap()
        };
        let script = file("script", "#!/no/such/interpreter\n", 0o755);
        let plain = file("plain", "", 0o644);

        let check = |target: StdioTarget| {
            let secret = ("TOKEN".to_owned(), Secret("hush".to_owned()));
            let target = StdioTarget { env: vec![secret], args: vec!["--key=hush".into()], ..target };
            let error = start(&target).expect_err("must not start");
            assert!(!format!("{error} {error:?}").contains("hush"));
            error
        };
        let text = check(target("no-such-program-here")).to_string();
        assert!(text.contains("`no-such-program-here`") && text.contains("PATH"), "{text}");
        let text = check(target("./absent")).to_string();
        assert!(text.contains("no such file"), "{text}");
        let text = check(target(&script)).to_string();
        assert!(text.contains("interpreter"), "{text}");
        let error = check(target(&plain));
        assert!(matches!(error, SpawnError::PermissionDenied { .. }), "{error:?}");

        let missing = StdioTarget { cwd: Some(folder.path().join("nowhere")), ..target("true") };
        let error = check(missing);
        assert!(matches!(error, SpawnError::CwdMissing { .. }), "{error:?}");
        assert!(error.to_string().contains("nowhere"), "{error}");
        let not_a_folder = StdioTarget { cwd: Some(plain.into()), ..target("true") };
        assert!(matches!(check(not_a_folder), SpawnError::CwdMissing { .. }));

        let nul = check(target("a\0b"));
        assert!(matches!(nul, SpawnError::Other { .. }), "{nul:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn files_that_go_on_to_children_are_told_by_their_flags() {
    assert!(goes_on_to_children("pos:\t0\nflags:\t0100002\nmnt_id:\t15\n"));
    assert!(!goes_on_to_children("pos:\t0\nflags:\t02100002\nmnt_id:\t15\n"));
    assert!(!goes_on_to_children(""), "gone since it was listed");
}
