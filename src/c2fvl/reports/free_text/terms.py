"""The words of free radiology sentences and what each of them means to the reader.

A term is one word or a fixed phrase; the longest phrase that fits counts. The reader skips words that are not here.
"""

from dataclasses import dataclass

from c2fvl.reports.caption_grammar import NUMBER_WORDS
from c2fvl.reports.zones import HANDS, HEIGHTS

LEFT, RIGHT = frozenset({"left"}), frozenset({"right"})
BOTH = frozenset(HANDS)

FINDING = "finding"  # an opacity or infection of the lung; the value is its class
ABNORMALITY = "abnormality"  # read only if it is denied
OTHER = "other"  # another finding, or a part of the chest that is not lung
ORGAN = "organ"
PLACE = "place"
EXAM = "exam"
LUNG_WORD = "lung word"
NEGATION = "negation"
DENIAL = "denial"  # after its finding: "is not seen"
CLEAR = "clear"
SPARED = "spared"
UNILATERAL = "unilateral"
ELSEWHERE = "elsewhere"
EXCEPT = "except"
LIMIT = "limit"  # leaves a negation open: "no new …"
NARROW = "narrow"  # the negation denies one kind of it only: "no focal …"
UNSURE = "unsure"
CAUSE = "cause"  # what follows tells what the finding is
EARLIER = "earlier"
RESOLVED = "resolved"
HEADER = "header"  # before a colon; elsewhere it is of the kind in its value
FOREIGN = "foreign"
AND, OR, CONTRAST, WITH = "and", "or", "but", "with"
SHOWS = "shows"
COMPARISON = "comparison"
COUNT = "count"
COUNTED = "counted"
FILLER = "filler"


@dataclass(frozen=True)
class Place:
    """What one word says about a place."""

    hands: frozenset[str] = frozenset()
    heights: frozenset[str] = frozenset()
    is_noun: bool = False
    """Names a part of the lung by itself; "upper" does not, and waits for "zone"."""
    is_plural: bool = False
    is_whole: bool = False
    is_adjective: bool = False
    """Needs no noun ("basal")."""
    is_bilateral: bool = False
    """"bilateral": "no bilateral opacity" leaves one lung open."""

    @property
    def is_bare_hand(self) -> bool:
        """Whether it is "left" or "right" and no more."""
        return bool(self.hands) and not self.heights and not self.is_noun and not self.is_bilateral


@dataclass(frozen=True)
class Term:
    """What a word or phrase means."""

    kind: str
    value: str = ""
    place: Place = Place()


def _spread(kind: str, words: str, value: str = "") -> dict[tuple[str, ...], Term]:
    """Return one term for each phrase of a list with commas."""
    return {tuple(phrase.split()): Term(kind, value) for phrase in words.split(",") if phrase.strip()}


def _places() -> dict[tuple[str, ...], Term]:
    found: dict[str, Place] = {}
    for hand, words in ((LEFT, "left, lt, leftsided"), (RIGHT, "right, rt, rightsided")):
        for word in words.split(", "):
            found[word] = Place(hand)
    for words, place in (
        ("bilateral, bilaterally, bilat, bil, b / l", Place(BOTH, is_bilateral=True)),
        ("both, either", Place(BOTH)),
        ("upper", Place(heights=frozenset({"upper"}))),
        ("uz", Place(heights=frozenset({"upper"}), is_noun=True)),
        ("mz", Place(heights=frozenset({"middle"}), is_noun=True)),
        ("lz", Place(heights=frozenset({"lower"}), is_noun=True)),
        ("retrocardiac", Place(heights=frozenset({"lower"}), is_adjective=True)),
        *((f"{height} {fraction}", Place(heights=frozenset({height, "middle"}), is_noun=True))
          for height in ("upper", "lower") for fraction in ("two thirds", "2 / 3", "2 / 3rds", "two third")),
        *((f"{height} {fraction}", Place(heights=frozenset({height}), is_noun=True))
          for height in HEIGHTS for fraction in ("one third", "1 / 3", "1 / 3rd")),
        ("middle lobe", Place(RIGHT, frozenset({"middle"}), is_noun=True)),
        ("middle, mid", Place(heights=frozenset({"middle"}))),
        ("lower", Place(heights=frozenset({"lower"}))),
        ("apical", Place(heights=frozenset({"upper"}), is_adjective=True)),
        ("apex", Place(heights=frozenset({"upper"}), is_noun=True)),
        ("apices, apexes", Place(heights=frozenset({"upper"}), is_noun=True, is_plural=True)),
        ("perihilar, parahilar", Place(heights=frozenset({"middle"}), is_adjective=True)),
        ("midzone, midlung", Place(heights=frozenset({"middle"}), is_noun=True)),
        ("midzones, midlungs", Place(heights=frozenset({"middle"}), is_noun=True, is_plural=True)),
        ("basal, basilar, basally", Place(heights=frozenset({"lower"}), is_adjective=True)),
        ("base", Place(heights=frozenset({"lower"}), is_noun=True)),
        ("bases", Place(heights=frozenset({"lower"}), is_noun=True, is_plural=True)),
        ("lung, lobe, zone, field, hemithorax, region, third", Place(is_noun=True)),
        ("lungs, lobes, zones, fields, regions, hemithoraces, thirds, lung parenchyma, lung fields, lung zones",
         Place(is_noun=True, is_plural=True)),
        ("whole, entire, all, throughout, complete, total, entirety", Place(is_whole=True)),
        ("lingula, lingular", Place(LEFT, frozenset({"middle"}), is_noun=True)),
    ):  # fmt: skip
        for word in words.split(", "):
            found[word] = place
    for word, height in (("biapical", "upper"), ("bibasal", "lower"), ("bibasilar", "lower"), ("bibasally", "lower")):
        found[word] = Place(BOTH, frozenset({height}), is_noun=True, is_bilateral=True)
    for name, hand in (("left", LEFT), ("right", RIGHT)):
        for height in HEIGHTS:
            for noun in "lz":  # lobe, zone
                found[f"{name[0]}{height[0]}{noun}"] = Place(hand, frozenset({height}), is_noun=True)
        # one term, as the lingula, which mirroring exchanges with the right middle lobe
        found[f"{name} middle lobe"] = Place(hand, frozenset({"middle"}), is_noun=True)
    return {tuple(word.split()): Term(PLACE, place=place) for word, place in found.items()}


TERMS: dict[tuple[str, ...], Term] = {
    **_places(),
    **_spread(FINDING, "opacity, opacities, opacification, opacifications, shadowing, shadowings, haziness, "
              "opaque areas, white out, whiteout, whited out, hazy", "opacity"),
    **_spread(FINDING, "consolidation, consolidations, consolidative, consolidated, consol", "consolidation"),
    **_spread(FINDING, "infiltrate, infiltrates, infiltration, infiltrations", "infiltrate"),
    **_spread(FINDING, "ground glass, groundglass, ggo, ggos, ground glass opacity, ground glass opacities, "
              "ground glass opacification, ground glass shadowing, groundglass opacity, groundglass opacities, "
              "ground glass change, ground glass changes", "ground glass"),
    **_spread(FINDING, "air space disease, airspace disease, air space shadowing, airspace shadowing, "
              "air space opacity, air space opacities, airspace opacity, airspace opacities, "
              "air space opacification, airspace opacification", "airspace"),
    **_spread(FINDING, "infection, infections, infective, infectious, infected, pneumonia, pneumonias, pneumonic, pna, "
              "bronchopneumonia, pneumonitis, covid, covid 19, "
              "covid19, inflammatory change, inflammatory changes", "infection"),
    **_spread(ABNORMALITY, "abnormality, abnormalities, disease, process, pathology, lesion, lesions"),
    **_spread(LUNG_WORD, "pulmonary, cardiopulmonary, parenchymal, bronchial, bronchus, pleura, thoracic, airspace, "
              "air space"),
    **_spread(EXAM, "chest, chest x ray, chest xray, chest radiograph, chest film, chest ct, cxr, radiograph, x ray, "
              "xray, film, study, examination, exam, thorax"),
    **_spread(OTHER, "effusion, effusions, pleural, pneumothorax, pneumothoraces, cardiomegaly, heart, cardiac, "
              "cardiac shadow, mediastinum, mediastinal, cardiomediastinal, hilum, hila, hilar, fracture, fractures, "
              "rib, ribs, bone, bones, bony, osseous, skeletal, spine, clavicle, shoulder, diaphragm, hemidiaphragm, "
              "hemidiaphragms, diaphragms, costophrenic, cardiophrenic, angle, angles, aorta, aortic, trachea, "
              "tracheal, tube, tubes, line, lines, catheter, pacemaker, pacing, icd, drain, wire, wires, clip, clips, "
              "valve, port, stent, device, devices, electrodes, leads, picc, ett, ng tube, emphysema, emphysematous, "
              "hyperinflation, hyperinflated, scoliosis, hernia, chest wall, chest tube, chest drain, chest pain, "
              "soft tissue, soft tissues, skull base, ventricle, atrium, shift, rotated, rotation, fissure, "
              "vascular, vasculature, vessels, pulmonary embolism, pulmonary artery, pulmonary arteries, "
              "pulmonary vessels, pulmonary vasculature, lung volume, lung volumes, lung markings, "
              "base of the heart, apex of the heart, cardiac apex, upper abdomen, upper limb, lower limb, "
              "upper thoracic, lower thoracic, lower cervical, upper mediastinum, middle mediastinum, "
              "nipple, nipples, skin fold, skin folds, scapula, scapular, shadow of the, "
              "upper lip, lower lip, upper extremity, lower extremity, upper rib, lower ribs, lower neck", "apart"),
    **_spread(OTHER, "atelectasis, atelectatic, atelectases, collapse, collapsed, nodule, nodules, nodular, mass, "
              "masses, tumour, tumor, oedema, edema, congestion, fibrosis, fibrotic, scar, scarring, cavity, "
              "cavitation, bronchiectasis, granuloma, calcification, calcifications, calcified, contusion, "
              "haemorrhage, hemorrhage, metastases, metastasis, pulmonary oedema, pulmonary edema, infarct, "
              "thickening, lymphadenopathy", "opaque"),
    **_spread(ORGAN, "brain, cerebral, cerebellum, intracranial, skull, liver, hepatic, kidney, kidneys, renal, "
              "spleen, splenic, pancreas, pancreatic, abdomen, abdominal, bowel, colon, stomach, appendix, bladder, "
              "uterus, ovary, prostate, pelvis, pelvic, hip, knee, knees, ankle, foot, wrist, elbow, femur, "
              "tibia, thyroid, breast, breasts, sinus, sinuses, orbit, retina, lumbar, meniscus, gallbladder, "
              "arm, leg, thigh, urinary, ear, throat, "
              "quadrant, upper quadrant, lower quadrant, tooth, teeth, skin, lip, nuclei, nucleus"),
    **_spread(NEGATION, "no, without, nil, negative for, no evidence of, without evidence of, no sign of, "
              "no signs of, free of, free from, clear of, absence of, lack of, lacks, neither, nor, never, none, "
              "zero"),
    **_spread(DENIAL, "not seen, not identified, not present, not demonstrated, not evident, not visible, "
              "not visualised, not visualized, not detected, not noted, not found, not appreciated, absent"),
    **_spread(CLEAR, "clear, unremarkable, normal, free, well aerated, normally aerated, clear and well expanded"),
    **_spread(CLEAR, "spared, uninvolved, unaffected"),
    **_spread(SPARED, "sparing, spares, with sparing of, sparing of"),
    **_spread(UNILATERAL, "unilateral"),
    **_spread(ELSEWHERE, "otherwise, elsewhere, remaining, remainder, rest"),
    **_spread(EXCEPT, "with the exception of, except, excepting, excluding, apart from, "
              "aside from, other than, save for, barring"),
    **_spread(LIMIT, "new, other, further, additional, interval, significant, large, gross, major, definite, "
              "definitive, obvious, convincing, change, changes, improvement, progression, increase, "
              "worsening, longer, only"),
    **_spread(NARROW, "focal, lobar, segmental, confluent, dense, multifocal, diffuse, multilobar, patchy"),
    **_spread(UNSURE, "possible, possibly, probable, probably, likely, unlikely, suspicious, suspected, suspicion, "
              "suspect, questionable, question, query, may, might, could, would, cannot, can not, can't, couldn't, "
              "exclude, excluded, excludes, rule out, ruled out, rules out, r / o, equivocal, suggest, suggests, "
              "suggestive, suggesting, suggestion, presumably, presumed, versus, vs, differential, concern, "
              "concerning, worrisome, potentially, potential, perhaps, unclear, indeterminate, if, should, evaluate, "
              "assess, doubtful, doubt, hardly, rather than, instead of, as opposed to, artefact, artifact, "
              "artefactual, artifactual, not, isn't, aren't, doesn't, don't, unable, whether, "
              "questioned, queried, questionably, maybe, apparent, apparently, possibility, "
              "possibilities, conceivable, "
              "conceivably, hint, hints, felt, thought, believed, considered, consider, considering, consideration, "
              "seems, seem, seemingly, appears, appear, favour, favours, favoured, favor, favors, favored, likelihood, "
              "difficult, nonspecific, non specific, tentative, tentatively, provisional, dubious, "
              "debatable, arguable, "
              "unconfirmed, confirm, reportedly, reported, presumptive, assumed, supposed, supposedly, impending, "
              "contralateral, overlying, superimposed, superimposition, summation, projected, "
              "projecting, projectional, "
              "non, noninfectious, noninfective, nonpneumonic, 0, (-), +/-, should read, should be, "
              "technical, poor inspiration, simulating, simulates, pseudo, ?, "
              "mimic, mimics, mimicking, uncertain, borderline, risk, impossible, nowhere, nothing, denies"),
    **_spread(EARLIER, "previously, previous, prior, earlier, compared, comparison, since, improved, improving, "
              "improvement, decreased, decreasing, regression, regressed, history, known, old, former, formerly, "
              "yesterday, diminished, diminishing, reduced, reducing, reduction, lessened, shrunk, shrinking, better, "
              "recovering, recovered, treated, was, were, had, used to, initially, initial, "
              "status post, post, last, ago, no change, no interval change, "
              "no significant change, interval change"),
    **_spread(RESOLVED, "resolved, resolving, resolution, cleared, clearing, clearance, no longer, disappeared, gone, "
              "subsided, subsiding, vanished, vanishing, faded, fading, receded, abated, dissipated, "
              "normalised, normalized, "
              "healed, healing, disappearance, disappearing, cured, went away, cleared up, dissolved, settled"),
    **_spread(HEADER, "indication, indications, clinical information, clinical indication, clinical details, reason, "
              "reason for exam, reason for examination, technique, referral, request", FILLER),
    **_spread(HEADER, "history, clinical history, comparison", EARLIER),
    **_spread(HEADER, "question, clinical question", UNSURE),
    **_spread(FOREIGN, "kein, keine, keinen, ohne, und, der, das, beidseits, sem, não, sin, pas, sans, geen, zonder, "
              "nessun, nessuna, senza, ingen, utan, del, della, el, los, las, et, les, des, du, di, il, para, dos, "
              "em, een, het, och, nicht, ist, avec, dans, nel, nella, con, por, nie, bez"),
    **_spread(CAUSE, "due to, secondary to, owing to, because of, caused by, attributed to, attributable to, "
              "explained by, accounted for by, related to, reflecting, reflects, reflect, representing, represents, "
              "represent, consistent with, in keeping with, compatible with, result of, resulting from, typical of, "
              "characteristic of, produced by, indicative of, diagnostic of, indicating, indicates"),
    **_spread(AND, "and, &, /, +"),
    **_spread(OR, "or, and / or"),
    **_spread(CONTRAST, "but, however, although, though, while, whereas, whilst, yet, despite"),
    **_spread(WITH, "with, plus, alongside"),
    **_spread(SHOWS, "there is, there are, shows, show, demonstrates, demonstrate, has, have", "begins"),
    **_spread(SHOWS, "is, are, seen, noted, present, identified, visible"),
    **_spread(COMPARISON, "than, worse, greater, more, larger, less, smaller, >, <, =, ≥, ≤, equal, bigger, denser"),
    **_spread(COUNTED, "area, areas, focus, foci, patch, patches"),
    **_spread(FILLER, "apical segment, basal segment, basal segments, superior segment, apical segments, "
              "apicoposterior segment, post contrast, hand side, at all, all of the, "
              "normal limits, associated with, well defined, follow up, followup, repeat, "
              "sparse, clear cut, post mortem"),
    **{(word,): Term(COUNT, str(number)) for number, word in enumerate(NUMBER_WORDS) if number},
    **_spread(COUNT, "single, solitary", "1"),
}  # fmt: skip
TERMS[("within", "normal", "limits")] = Term(CLEAR)
TERMS[("left", "sided")] = Term(PLACE, place=Place(LEFT))
TERMS[("right", "sided")] = Term(PLACE, place=Place(RIGHT))
TERMS[("all", "of", "the")] = Term(PLACE, place=Place(is_whole=True))
LONGEST_PHRASE = max(map(len, TERMS))

ABBREVIATIONS = frozenset({"bilat", "bil", "l", "r", "lt", "rt", "approx", "resp"})
"""After these a full stop does not end the sentence if a small letter follows."""
WHITED = frozenset({"white out", "whiteout", "whited out"})
"""Findings that concern the whole lung that is named."""
CORRECTIONS = frozenset({
    "addendum", "correction", "erratum", "corrected", "dictated", "misdictated", "amended", "disregard", "ignore",
    "meant", "error", "mistake", "mistakenly", "typo", "should read",
})  # fmt: skip
"""After one of these words nothing that the text says before counts."""
PARTIAL = frozenset({
    "retrocardiac", "subpleural", "peripheral", "central", "medial", "lateral", "anterior", "posterior", "paracardiac",
    "subsegmental", "whiteout", "white-out", "white out", "whited out",
})  # fmt: skip
"""Denied with one of these words, a finding may be elsewhere in its zone."""
RELATIVE = frozenset({
    "underlying", "adjacent", "associated", "surrounding", "accompanying", "neighbouring", "neighboring", "ipsilateral",
    "there", "here", "side",
})  # fmt: skip
"""Denied with one of these words and no place, a finding may be anywhere but at the place that is meant."""
MIMICS = frozenset({
    "nipple", "nipples", "skin fold", "skin folds", "scapula", "scapular", "breast", "breasts", "soft tissue",
    "soft tissues",
})  # fmt: skip
"""What looks like an opacity and is not in the lung."""
NEUTRAL_MARKS = frozenset(".,;:()[]\"'’“”%*•-–—/#&")

LUNG_EVIDENCE = frozenset({
    "lung", "lungs", "consolidation", "infiltrate", "infiltrates", "pulmonary", "chest", "thorax", "thoracic",
    "pleural", "pleura", "pneumonia", "bronchopneumonia", "bronchial", "airspace", "cxr", "bibasal", "bibasilar",
    "biapical", "perihilar", "hilar", "costophrenic", "cardiopulmonary", "pneumothorax", "hemithorax",
    *(hand + height + noun for hand in "lr" for height in "uml" for noun in "lz"),
})  # fmt: skip
"""One of these words shows that a text is about the chest."""

COUNT_ADJECTIVES = frozenset({
    "small", "large", "patchy", "focal", "dense", "ill", "defined", "faint", "subtle", "separate", "distinct",
    "discrete", "rounded", "round", "peripheral", "infected", "confluent", "nodular", "hazy", "ground", "glass",
    "airspace",
})  # fmt: skip
"""Words that may stand between a number and what it counts."""
COUNT_SPOILERS = frozenset({
    "least", "most", "about", "approximately", "than", "over", "under", "up", "to", "nearly", "around", "of",
})  # fmt: skip
"""Words before a number that make it uncertain."""
