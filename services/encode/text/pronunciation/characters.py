"""A common Chinese character for each pinyin syllable, for checkpoints without tokens for phones.

Made with pypinyin from the 3,755 characters of GB 2312's first level; characters with one reading are preferred.
"""

from __future__ import annotations

_PAIRS = """
a啊 ài碍 àn按 àng盎 ào傲 ái皑 áng昂 áo翱 ā阿 āi哎 ān安 āng肮 āo凹 ǎi蔼 ǎn俺 ǎo袄 ba吧 bà坝 bài败 bàn瓣 bàng棒
bào报 bá拔 bái白 báo雹 bā笆 bān斑 bāng邦 bāo褒 bǎ靶 bǎi摆 bǎn板 bǎng绑 bǎo保 bèi辈 bèn笨 bèng蹦 béng甭 bēi杯
bēn奔 bēng崩 běi北 běn苯 biàn变 biān鞭 biāo标 biǎn贬 biǎo表 bié别 biē鳖 biě瘪 bì必 bìn摈 bìng病 bí鼻 bī逼 bīn斌
bīng兵 bǐ笔 bǐng柄 bo卜 bó博 bō玻 bù不 bǔ捕 cài菜 càn灿 cái裁 cán残 cáng藏 cáo曹 cā擦 cāi猜 cān餐 cāng苍 cāo操
cǎi睬 cǎn惨 cǎo草 cè策 cèng蹭 céng层 chà岔 chàn颤 chàng畅 chá茶 chái豺 chán蝉 cháng常 cháo潮 chā插 chāi拆
chān搀 chāng猖 chāo钞 chǎn产 chǎng场 chǎo炒 chè撤 chèn衬 chèng秤 chén臣 chéng成 chē车 chēn郴 chēng撑 chě扯
chěng骋 chì赤 chí持 chī痴 chǐ耻 chòu臭 chóng崇 chóu酬 chōng充 chōu抽 chǒng宠 chǒu瞅 chuàn串 chuàng创 chuán椽
chuáng床 chuāi揣 chuān川 chuāng疮 chuǎn喘 chuǎng闯 chuí锤 chuī炊 chuò绰 chuō戳 chù矗 chú橱 chún醇 chū出 chūn椿
chǔ楚 chǔn蠢 cì赐 cí茨 cī疵 cǐ此 còu凑 cóng丛 cōng聪 cuàn篡 cuān蹿 cuì脆 cuī崔 cuò错 cuō磋 cù醋 cùn寸 cún存
cū粗 cūn村 dà大 dài代 dàn旦 dàng荡 dào到 dá达 dā搭 dāi呆 dān耽 dāng当 dāo刀 dǎ打 dǎi傣 dǎn掸 dǎng党 dǎo导 de的
dèng瞪 dé德 dēng蹬 děng等 diàn电 diào吊 diān颠 diāo碉 diǎn点 dié谍 diē爹 diū丢 dì第 dìng定 dí迪 dī低 dīng叮
dǐ抵 dǐng顶 dòng动 dòu豆 dōng东 dōu兜 dǒng懂 dǒu抖 duàn锻 duān端 duǎn短 duì对 duī堆 duò跺 duó夺 duō多 duǒ躲
dù镀 dùn钝 dú犊 dū督 dūn墩 dǔ睹 è扼 èr二 é峨 ér而 ēn恩 ěr尔 fà珐 fàn范 fàng放 fá罚 fán矾 fáng肪 fā发 fān翻
fāng芳 fǎ法 fǎn返 fǎng访 fèi吠 fèn忿 fèng奉 féi肥 fén坟 féng逢 fēi飞 fēn芬 fēng丰 fěi诽 fěn粉 fěng讽 fǒu否 fù赴
fú辐 fū敷 fǔ抚 gài钙 gàn赣 gào告 gá噶 gā嘎 gāi该 gān肝 gāng冈 gāo篙 gǎi改 gǎn秆 gǎng岗 gǎo稿 gè铬 gèng更 gé阁
gē哥 gēn根 gēng耕 gěi给 gěng埂 gòng贡 gòu垢 gōng公 gōu钩 gǒng巩 gǒu狗 guà挂 guài怪 guàn罐 guàng逛 guā刮 guāi乖
guān关 guāng光 guǎ剐 guǎi拐 guǎn管 guǎng广 guì桂 guī规 guǐ轨 guò过 guó国 guō锅 guǒ裹 gù故 gùn棍 gū辜 gǔ鼓 gǔn辊
hài氦 hàn翰 hào耗 há蛤 hái孩 hán韩 háng航 háo壕 hā哈 hān憨 hāng夯 hǎi海 hǎn喊 hǎo好 hè褐 hèn恨 hé禾 hén痕
héng衡 hē呵 hēi黑 hēng哼 hěn很 hòu后 hóng鸿 hóu喉 hōng轰 hǒng哄 hǒu吼 huà话 huài坏 huàn换 huá猾 huái槐 huán环
huáng黄 huā花 huān欢 huāng荒 huǎn缓 huǎng幌 huì慧 huí回 huī灰 huǐ悔 huò获 huó活 huō豁 huǒ伙 hù护 hùn混 hú瑚
hún魂 hū乎 hūn婚 hǔ虎 jià稼 jiàn建 jiàng匠 jiào酵 jiá荚 jiā加 jiān歼 jiāng僵 jiāo交 jiǎ甲 jiǎn检 jiǎng蒋 jiǎo搅
jiè界 jié截 jiē皆 jiě解 jiǒng炯 jiù就 jiū揪 jiǔ玖 jì计 jìn进 jìng静 jí及 jī基 jīn今 jīng荆 jǐ挤 jǐn紧 jǐng警
juàn倦 juān鹃 juǎn卷 jué决 juē撅 jù聚 jùn峻 jú菊 jū狙 jūn军 jǔ矩 kàn看 kàng抗 kào靠 káng扛 kā喀 kāi开 kān刊
kāng慷 kǎ卡 kǎi凯 kǎn砍 kǎo考 kè克 ké壳 kē柯 kēng坑 kě坷 kěn肯 kòng控 kòu扣 kōng空 kōu抠 kǒng恐 kǒu口 kuà挎
kuài筷 kuàng矿 kuáng狂 kuā夸 kuān宽 kuāng筐 kuǎ垮 kuǎn款 kuì馈 kuí葵 kuī盔 kuò扩 kù酷 kùn困 kū哭 kūn坤 kǔ苦
kǔn捆 la啦 là辣 lài赖 làn烂 làng浪 lào涝 lái来 lán栏 láng廊 láo劳 lā垃 lāo捞 lǎ喇 lǎn揽 lǎng朗 lǎo老 le了 lè乐
lèi类 léi镭 léng棱 lē肋 lēi勒 lěi蕾 lěng冷 liàn链 liàng辆 liào撂 lián联 liáng粮 liáo疗 liāo撩 liǎ俩 liǎn敛
liǎng两 liè烈 liù六 liú琉 liū溜 liǔ柳 lì力 lìn赁 lìng另 lí梨 lín琳 líng玲 lī哩 līn拎 lǐ理 lǐn凛 lǐng领 lòu陋
lóng龙 lóu楼 lǒng垄 lǒu篓 luàn乱 luán峦 luǎn卵 luò洛 luó萝 luǒ裸 lù麓 lùn论 lú卢 lún轮 lūn抡 lüè略 lǜ氯 lǘ驴
lǚ吕 lǔ掳 ma嘛 mà骂 mài麦 màn曼 mào茂 má麻 mái埋 mán瞒 máng盲 máo茅 mā妈 māo猫 mǎ马 mǎi买 mǎn满 mǎng莽 mǎo铆
me么 men们 mèi寐 mèn闷 mèng梦 méi玫 mén门 méng檬 měi美 měng锰 miàn面 miào庙 mián棉 miáo苗 miǎn冕 miǎo秒 miè蔑
miù谬 mì觅 mìng命 mí醚 mín民 míng螟 mī眯 mǐ米 mǐn抿 mò默 mó蘑 móu谋 mō摸 mǒ抹 mǒu某 mù目 mǔ拇 nà钠 nài奈 nào闹
ná拿 nán男 náng囊 náo挠 nǎ哪 nǎi氖 nǎo脑 ne呢 nèi内 nèn嫩 néng能 něi馁 niàn念 niàng酿 niào尿 nián年 niáng娘
niān蔫 niǎn碾 niǎo鸟 niè聂 niē捏 niú牛 niǔ钮 nì腻 nìng泞 ní霓 nín您 níng狞 nī妮 nǐ你 nòng弄 nóng脓 nuǎn暖 nuò懦
nuó挪 nù怒 nú奴 nüè虐 nǚ女 nǔ努 ó哦 ōu欧 ǒu藕 pà帕 pài湃 pàn畔 pàng胖 pào炮 pá爬 pái牌 pán盘 páng庞 páo咆 pā啪
pāi拍 pān攀 pāng乓 pāo抛 pǎng耪 pǎo跑 pèi配 pèng碰 péi赔 pén盆 péng棚 pēi呸 pēn喷 pēng烹 pěng捧 piàn骗 piào票
piáo瓢 piān篇 piāo飘 piē撇 pì僻 pìn聘 pí琵 pín频 píng坪 pī砒 pīn拼 pīng乒 pǐ匹 pǐn品 pò破 pó婆 pō坡 pōu剖 pǒ颇
pù铺 pú脯 pū扑 pǔ圃 qià恰 qiàn堑 qiào撬 qián黔 qiáng墙 qiáo桥 qiā掐 qiān牵 qiāng枪 qiāo橇 qiǎn谴 qiǎng抢 qiǎo巧
qiè怯 qiě且 qióng琼 qiú求 qiū秋 qì器 qìn沁 qìng庆 qí歧 qín秦 qíng情 qī欺 qīn钦 qīng轻 qǐ起 qǐn寝 qǐng顷 quàn劝
quán全 quān圈 quǎn犬 què却 qué瘸 quē缺 qù趣 qú渠 qún裙 qū趋 qǔ龋 ràng让 rào绕 rán然 ráng瓤 ráo饶 rǎn染 rǎng壤
rǎo扰 rè热 rèn认 rén人 réng仍 rēng扔 rě惹 rěn忍 rì日 ròu肉 róng蓉 róu揉 rōng茸 rǒng冗 ruǎn软 ruì瑞 ruǐ蕊 ruò弱
rù入 rùn闰 rú如 rǔ辱 sà萨 sài赛 sàn散 sàng丧 sā撒 sāi腮 sān三 sāng桑 sāo骚 sǎ洒 sǎn伞 sǎng嗓 sǎo嫂 sè瑟 sēn森
sēng僧 shang裳 shà厦 shài晒 shàn擅 shàng上 shào邵 shá啥 sháo韶 shā砂 shāi筛 shān山 shāng墒 shāo烧 shǎ傻 shǎn闪
shǎng赏 shǎo少 shè社 shèn肾 shèng剩 shé蛇 shén神 shéng绳 shē奢 shēn砷 shēng生 shě舍 shěn审 shěng省 shi匙 shì是
shí时 shī师 shǐ使 shòu寿 shōu收 shǒu手 shuài帅 shuā刷 shuāi摔 shuān栓 shuāng霜 shuǎ耍 shuǎi甩 shuǎng爽 shuì睡
shuí谁 shuǐ水 shuò硕 shuō说 shù述 shùn瞬 shú赎 shū书 shǔ薯 shǔn吮 sì四 sī嘶 sǐ死 sòng颂 sòu嗽 sōng松 sōu艘
sǒng耸 sǒu擞 suàn蒜 suān酸 suì碎 suí随 suī虽 suǐ髓 suō蓑 suǒ所 sù素 sú俗 sū苏 sūn孙 sǔn损 tà挞 tài泰 tàn碳
tàng烫 tào套 tái苔 tán坛 táng塘 táo萄 tā塌 tāi胎 tān坍 tāng汤 tāo涛 tǎ獭 tǎn坦 tǎng倘 tǎo讨 tè特 téng藤 tiào眺
tián田 tiáo条 tiān天 tiāo挑 tiǎn腆 tiē贴 tiě铁 tì替 tí题 tíng廷 tī锑 tīng厅 tǐ体 tǐng艇 tòng痛 tòu透 tóng瞳
tóu投 tōng通 tōu偷 tǒng统 tuán团 tuān湍 tuì退 tuí颓 tuī推 tuǐ腿 tuò唾 tuó鸵 tuō托 tuǒ椭 tù兔 tú图 tún臀 tū凸
tūn吞 tǔ土 wa哇 wà袜 wài外 wàn腕 wàng望 wá娃 wán玩 wáng王 wā挖 wāi歪 wān豌 wāng汪 wǎ瓦 wǎn碗 wǎng网 wèi未 wèn问
wèng瓮 wéi韦 wén文 wēi威 wēn瘟 wēng嗡 wěi苇 wěn吻 wò卧 wō蜗 wǒ我 wù物 wú芜 wū巫 wǔ五 xià下 xiàn现 xiàng向
xiào孝 xiá匣 xián贤 xiáng翔 xiáo淆 xiā瞎 xiān先 xiāng厢 xiāo萧 xiǎn显 xiǎng想 xiǎo小 xiè械 xié协 xiē楔 xiě写
xióng雄 xiōng凶 xiù嗅 xiū修 xiǔ朽 xì隙 xìn衅 xìng性 xí檄 xíng形 xī西 xīn心 xīng星 xǐ喜 xǐng醒 xuàn绚 xuán悬
xuān轩 xuǎn选 xuè血 xué学 xuē靴 xuě雪 xù蓄 xùn殉 xú徐 xún循 xū墟 xūn勋 xǔ许 ya呀 yà亚 yàn艳 yàng漾 yào药 yá芽
yán盐 yáng杨 yáo瑶 yā鸦 yān阉 yāng殃 yāo邀 yǎ雅 yǎn奄 yǎng氧 yǎo舀 yè业 yé爷 yē椰 yě冶 yì义 yìn印 yìng硬 yí颐
yín银 yíng莹 yī一 yīn因 yīng樱 yǐ蚁 yǐn引 yǐng影 yòng用 yòu又 yóu尤 yō哟 yōng拥 yōu幽 yǒng踊 yǒu酉 yuàn院
yuán原 yuān鸳 yuǎn远 yuè跃 yuē曰 yù玉 yùn蕴 yú盂 yún耘 yū迂 yūn晕 yǔ屿 yǔn陨 zài在 zàn暂 zàng葬 zào躁 zá砸
zán咱 záo凿 zā匝 zāi哉 zāng赃 zāo遭 zǎ咋 zǎi宰 zǎn攒 zǎo藻 zèng赠 zé则 zéi贼 zēng憎 zěn怎 zhà榨 zhài债 zhàn战
zhàng杖 zhào赵 zhá铡 zhái宅 zhā渣 zhāi摘 zhān瞻 zhāng张 zhāo招 zhǎ眨 zhǎi窄 zhǎn展 zhǎng掌 zhǎo沼 zhe着 zhè蔗
zhèn镇 zhèng郑 zhé哲 zhē遮 zhēn真 zhēng争 zhě者 zhěn诊 zhěng整 zhì制 zhí直 zhī芝 zhǐ址 zhòng仲 zhòu咒 zhóu轴
zhōng忠 zhōu舟 zhǒng肿 zhǒu肘 zhuàn篆 zhuàng撞 zhuā抓 zhuāi拽 zhuān专 zhuāng桩 zhuǎn转 zhuì赘 zhuī锥 zhuó酌
zhuō捉 zhù住 zhú竹 zhū珠 zhūn谆 zhǔ煮 zhǔn准 zi子 zì自 zī资 zǐ紫 zòng纵 zòu奏 zōng鬃 zōu邹 zǒng总 zǒu走 zuān钻
zuǎn纂 zuì醉 zuǐ嘴 zuò做 zuó昨 zuǒ左 zú足 zū租 zūn尊 zǔ诅
"""

CHARACTERS = {pair[:-1]: pair[-1] for pair in _PAIRS.split()}
"""Syllable with tone mark to a character that is read so."""
