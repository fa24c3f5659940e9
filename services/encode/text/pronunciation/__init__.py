"""How phrases are pronounced: phones in IPA, ARPAbet and pinyin, and the lexicon."""
