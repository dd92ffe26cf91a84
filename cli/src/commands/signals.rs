//! `signals stream`: a provider's stream of signals, set up at its transmitter by a control plane.
//!
//! A verification is asked for with a text that nobody else knows, and has come once a signal repeats it. What a
//! transmitter says is shown without control characters. Absent: secrets, which control planes alone hold.

use std::time::Duration;

use bailiwick_proto::v1::{SignalStreamRequest, SignalStreamResponse};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    admin::{ControlPlanes, admin, connect},
    args::{Output, SignalStreamArgs, SignalStreamCommand, SignalSubjectArgs, SignalVerifyArgs, SignalsCommand},
    failure::Failure,
    output::print,
};

/// Between two looks at whether the verification has come.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn run(urls: &str, command: SignalsCommand) -> Result<(), Failure> {
    let SignalsCommand::Stream(command) = command;
    match command {
        SignalStreamCommand::Create(SignalVerifyArgs { stream, wait }) => create(urls, stream, wait).await,
        SignalStreamCommand::Verify(SignalVerifyArgs { stream, wait }) => {
            verify(&mut connect(urls).await?, stream, wait).await
        }
        SignalStreamCommand::Status(args) => simple(urls, "status", args, "").await,
        SignalStreamCommand::Delete(args) => simple(urls, "delete", args, "").await,
        SignalStreamCommand::Add(args) => subject(urls, "add", args).await,
        SignalStreamCommand::Remove(args) => subject(urls, "remove", args).await,
    }
}

async fn subject(urls: &str, action: &str, args: SignalSubjectArgs) -> Result<(), Failure> {
    let SignalSubjectArgs { provider, user, stream, output } = args;
    simple(urls, action, SignalStreamArgs { provider, stream, output }, &user).await
}

async fn simple(urls: &str, action: &str, args: SignalStreamArgs, user: &str) -> Result<(), Failure> {
    let answer = ask(&mut connect(urls).await?, action, &args, user).await?;
    match action {
        "delete" => {
            let value = json!({"provider": args.provider, "stream": answer.stream});
            print(args.output, &value, || format!("stream {} is ended", answer.stream));
        }
        _ => show(args.output, &args.provider, &answer),
    }
    Ok(())
}

async fn create(urls: &str, args: SignalStreamArgs, wait: Duration) -> Result<(), Failure> {
    let mut control_planes = connect(urls).await?;
    let answer = ask(&mut control_planes, "create", &args, "").await?;
    if wait.is_zero() || answer.status == "paused" || answer.status == "disabled" {
        show(args.output, &args.provider, &answer);
        return Ok(());
    }
    let is_to_be_polled_first = answer.notes.iter().any(|note| note.contains("spec.signals.poll.url"));
    if is_to_be_polled_first {
        show(args.output, &args.provider, &answer);
        eprintln!("verify it then: bailiwick signals stream verify {}", args.provider);
        return Ok(());
    }
    let args = SignalStreamArgs { stream: Some(answer.stream), ..args };
    verify(&mut control_planes, args, wait).await
}

async fn verify(control_planes: &mut ControlPlanes, args: SignalStreamArgs, wait: Duration) -> Result<(), Failure> {
    let mut answer = ask(control_planes, "verify", &args, "").await?;
    let until = Instant::now() + wait;
    loop {
        let seen = ask(control_planes, "seen", &args, "").await?;
        (answer.verified, answer.verified_state) = (seen.verified, seen.verified_state);
        if answer.verified_state == answer.state {
            show(args.output, &args.provider, &answer);
            return Ok(());
        }
        if Instant::now() >= until {
            show(args.output, &args.provider, &answer);
            let why = "the verification event has not come; see `bailiwick_control_plane_signals_total` for what came";
            return Err(Failure::Refused(why.to_owned()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn ask(
    control_planes: &mut ControlPlanes,
    action: &str,
    args: &SignalStreamArgs,
    user: &str,
) -> Result<SignalStreamResponse, Failure> {
    let request = SignalStreamRequest {
        provider: args.provider.clone(),
        action: action.to_owned(),
        stream: args.stream.clone().unwrap_or_default(),
        user: user.to_owned(),
    };
    control_planes.ask(request, async |channel, asked| admin(channel).signal_stream(asked).await).await
}

fn show(output: Output, provider: &str, answer: &SignalStreamResponse) {
    let verified_at = match i64::try_from(answer.verified) {
        Ok(micros) if micros > 0 => jiff::Timestamp::from_microsecond(micros).map(|time| time.to_string()).ok(),
        _ => None,
    };
    // Of a verification that was asked for now: whether this is the one.
    let verified = (!answer.state.is_empty()).then(|| answer.state == answer.verified_state);
    let value = json!({
        "provider": provider,
        "stream": answer.stream,
        "status": answer.status,
        "delivery": answer.delivery,
        "endpoint": answer.endpoint,
        "events": answer.events,
        "notes": answer.notes,
        "verified": verified,
        "verified_at": verified_at,
    });
    print(output, &value, || lines(&value));
}

fn lines(value: &Value) -> String {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let list = |key: &str| {
        let items = value.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        items.map(str::to_owned).collect::<Vec<_>>()
    };
    let events: Vec<_> = list("events").iter().map(|uri| uri.rsplit('/').next().unwrap_or(uri).to_owned()).collect();
    let verified = match (value.get("verified").and_then(Value::as_bool), text("verified_at")) {
        (Some(true), at) => format!("yes, {at}"),
        (Some(false), _) => "no: the event that was asked for has not come".to_owned(),
        (None, "") => "never".to_owned(),
        (None, at) => format!("last {at}"),
    };
    let mut lines = vec![
        format!("stream    {}", text("stream")),
        format!("status    {}", text("status")),
        format!("delivery  {} {}", text("delivery"), text("endpoint")),
        format!("events    {}", events.join(", ")),
        format!("verified  {verified}"),
    ];
    lines.extend(list("notes").into_iter().map(|note| format!("note      {note}")));
    lines.join("\n")
}
