//! Conversations on an engine: what is cached must not change what is said.

mod qwen3;

use std::ops::ControlFlow;
use std::sync::Arc;

use onegrid::engine::Engine;
use onegrid::engine::reference::ReferenceEngine;
use onegrid::model::chat_template::ChatTemplate;
use onegrid::model::tokenizer::{SpecialTokens, Tokenizer};
use onegrid::model::{Weights, random, shapes};
use onegrid::sampling::SamplingParams;
use onegrid::text::completion::{Completion, CompletionRequest, complete};
use onegrid::text::conversation::Conversation;

fn tiny(tokenizer: &Tokenizer) -> Arc<Weights> {
    let mut config = shapes::config("tiny").unwrap();
    config.vocab_size = tokenizer.own_size();
    Arc::new(random::weights(&config, 1, &mut |_, _| ()).unwrap())
}

fn engine(weights: &Arc<Weights>) -> ReferenceEngine {
    ReferenceEngine::new(Arc::clone(weights), 256, 1).unwrap()
}

fn answer(engine: &mut dyn Engine, prompt: &[u32]) -> Completion {
    let sampling = SamplingParams {
        temperature: 1.0,
        seed: 5,
        ..SamplingParams::default()
    };
    let request = CompletionRequest {
        prompt,
        max_tokens: 5,
        sampling: &sampling,
        stop_tokens: &[],
        constraint: None,
    };
    complete(engine, &request, &|| false, &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap()
}

#[test]
fn every_turn_is_answered_as_if_nothing_were_cached() {
    let tokenizer = qwen3::tokenizer();
    let template = ChatTemplate::from_files(&qwen3::files()).unwrap();
    let weights = tiny(&tokenizer);
    let mut kept = engine(&weights);
    let mut conversation = Conversation::new(&template, &tokenizer);
    conversation.push("system", "Be brief.");
    for message in ["Hello!", "Why?", "Tell me more."] {
        conversation.push("user", message);
        let prompt = conversation.prompt().unwrap();
        let cached_before = kept.cached(0).len();
        let answered = answer(&mut kept, &prompt);
        assert_eq!(kept.cached(0)[..prompt.len()], prompt);
        let fresh = answer(&mut engine(&weights), &prompt);
        assert_eq!(
            answered.tokens, fresh.tokens,
            "after {cached_before} cached tokens"
        );
        assert_eq!(answered.stats.prompt_tokens, prompt.len());
        let text = tokenizer.decode(&answered.tokens, SpecialTokens::Skip);
        conversation.push("assistant", &text.unwrap());
    }
    // What was said before is forgotten, what the system says is not.
    conversation.clear();
    conversation.push("user", "Hello!");
    let text = tokenizer.decode(&conversation.prompt().unwrap(), SpecialTokens::Keep);
    assert_eq!(
        text.unwrap(),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello!<|im_end|>\n\
         <|im_start|>assistant\n"
    );
}

#[test]
fn an_interrupted_prompt_says_nothing() {
    let tokenizer = qwen3::tokenizer();
    let mut engine = engine(&tiny(&tokenizer));
    let sampling = SamplingParams::default();
    let request = CompletionRequest {
        prompt: &[1, 2, 3],
        max_tokens: 5,
        sampling: &sampling,
        stop_tokens: &[],
        constraint: None,
    };
    let on_token = &mut |_| -> ControlFlow<()> { panic!("no token is to be made") };
    let completion = complete(&mut engine, &request, &|| true, on_token).unwrap();
    assert_eq!((completion.stop, completion.tokens), ("stopped", vec![]));
    assert_eq!(completion.stats.first_token_ms, None);
}
