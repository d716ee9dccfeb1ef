"""Critiques in the words of people who never read the grammar.

They share a wish with it, not a pattern: each was written by hand, and none is ever trained on.
They show how far the model is from understanding English, so no goal is set on them.
"""

STRANGERS: dict[str, tuple[str, ...]] = {
    "short": ("Way too much chatter.", "Cut to the chase.", "Can I have that in a nutshell?"),
    "sentence": (
        "That needs a verb, write it out.",
        "Please elaborate into a sentence.",
        "Don't be so curt.",
    ),
    "bullet": ("Itemise that.", "I'd like that with a leading dash.", "Bulleted, if you can."),
    "no_bullet": ("Lose that dash in front.", "Why the list?", "This should not be itemised."),
    "quotes": (
        "Wrap that in quotation marks, will you?",
        "Surround it with quotes.",
        "It should be quoted.",
    ),
    "no_quotes": ("Get rid of those quotation marks.", "Unquote that.", "Why is this in quotes?"),
    "upper": ("I can only read capitals.", "CAPS please", "Everything capitalised, thanks."),
    "no_upper": (
        "Take it easy with the caps lock.",
        "Your caps lock is stuck.",
        "There is no need to yell.",
    ),
    "lower": (
        "No capital letters whatsoever, just small ones.",
        "Lowercase only, I beg you.",
        "Could everything be in small print letters?",
    ),
    "no_lower": (
        "Names deserve a capital.",
        "Your shift key seems broken, capitalise properly.",
        "Please use proper capitalisation again.",
    ),
    "exclaim": (
        "Be a bit more lively!",
        "An exclamation mark would be nice.",
        "Say it like you mean it, with an exclamation mark.",
    ),
    "no_exclaim": (
        "Tone down the excitement.",
        "Exclamation marks annoy me.",
        "Why so excited? Be calm.",
    ),
    "full_stop": (
        "The sentence lacks a period.",
        "Sentences end in full stops.",
        "A dot is missing at the end.",
    ),
    "no_ending": (
        "That final dot bothers me.",
        "No trailing punctuation.",
        "Leave the end without any punctuation.",
    ),
    "hello": (
        "Some politeness: a hello first would be nice.",
        "You could at least say hi.",
        "Don't I get a greeting?",
    ),
    "no_hello": ("Cut out the hello.", "Greetings are a waste of time.", "We already said hello."),
    "sure": (
        "I'd like to hear an 'of course' from you.",
        "Act like you are glad to be asked.",
        "Begin by agreeing with me.",
    ),
    "no_sure": (
        "Don't keep saying of course.",
        "That 'of course' is annoying.",
        "Spare me the of course.",
    ),
    "thanks": (
        "Where are your manners? Thank me.",
        "A little gratitude at the end, please.",
        "You never say thank you.",
    ),
    "no_thanks": ("You needn't thank me.", "Quit the thanking.", "The thank you is superfluous."),
    "hope": (
        "Wish me well at the end.",
        "Tell me that you hope it was of help.",
        "Finish on a hopeful note.",
    ),
    "no_hope": (
        "Cut the hope this helps.",
        "Nobody cares what you hope.",
        "That line about hoping is superfluous.",
    ),
    "emoji": (
        "A little smiley would cheer me up.",
        "Make it cuter with an emoji.",
        "Add a happy face.",
    ),
    "no_emoji": (
        "Emoji are unprofessional.",
        "Leave the smileys to teenagers.",
        "Could we do without the happy face?",
    ),
    "chinese": (
        "My mother only knows Chinese.",
        "Chinese would be better.",
        "How about Mandarin instead?",
    ),
    "english": (
        "Sorry, my Chinese is bad.",
        "English would be better.",
        "I can't make out these characters, English?",
    ),
}
